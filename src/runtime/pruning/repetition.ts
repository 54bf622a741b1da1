/**
 * KVzip's scoring (arXiv 2505.23416): the prompt is read once more, in chunks, and each cache entry is worth the most
 * that any repeated row attends to it. A repeated row sees the first tokens, its chunk's entries and the repetition so
 * far, nothing else. Unlike the authors' code no instruction goes before the repetition: policies speak no language.
 *
 * Repeated rows stand behind the whole prompt, whatever their chunk, and a layer with a sliding window shows them no more
 * than any row there could see. If that is not their whole chunk, they see just what the window holds, the prompt's end
 * and the repetition so far, as in the authors' code. That does not score such layers. Here what the window leaves out
 * gets nothing, and no later token can see it either; what it holds is worth what it gets, as everywhere.
 */
import { invariant } from '../../errors.ts';
import type { AttentionFeed } from '../../graph/session.ts';
import { lowerBound, type PrunedHead, range } from '../../kv/pruned-cache.ts';
import { causalMask } from '../attention-feed.ts';
import type { Model } from '../model.ts';
import type { Job } from '../prefill-lane.ts';
import { joined } from './joined.ts';
import { type RowBatch, tilesOf } from './row-batch.ts';
import { firstInWindow, maskOf } from './row-feed.ts';
import type { SequencePruning } from './sequence-pruning.ts';

/** Tokens that are repeated at a time. */
const CHUNK_TOKENS = 2048;
/** First tokens that every repeated row sees. */
const NUM_SINKS = 4;
const TILE_ROWS = 128;

export interface Repetition {
  readonly tokenIds: Int32Array;
  /** Position of the first token. */
  readonly start: number;
  readonly isDropped: () => boolean;
}

/** What it takes of a sequence whose caches hold the prompt: scores are kept in its heads. */
export type RepeatedSequence = Pick<SequencePruning, 'pruned' | 'policies' | 'headScale'>;

/** What the repeated rows of a chunk may see of one head: entries of the cache, and behind them their own. */
interface SeenEntries {
  /** [entries, headDim] */
  readonly keys: Float32Array;
  readonly values: Float32Array;
  /** [entries], ascending */
  readonly positions: Int32Array;
  /** Of the entries of the cache. */
  readonly slots: Int32Array;
}

/** Adds the maxima to the scores of the sequence's heads. Changes no cache. */
export function* repeatPrompt(
  model: Model,
  pruning: RepeatedSequence,
  { tokenIds, start, isDropped }: Repetition,
): Generator<Job, void> {
  const end = start + tokenIds.length;
  for (let from = 0; from < tokenIds.length; from += CHUNK_TOKENS) {
    const ids = tokenIds.subarray(from, from + CHUNK_TOKENS);
    const chunk = new RepeatedChunk(model, pruning, {
      from: start + from,
      to: start + from + ids.length,
      end,
    });
    const positions = Int32Array.from(ids, (_, i) => end + i);
    const hidden = model.embedding.rows(ids);
    const tiles = tilesOf({ positions, hidden, projected: new Float32Array(0) }, () => TILE_ROWS);
    for (let layer = 0; layer < model.numLayers; layer++) {
      for (const tile of tiles) {
        if (isDropped()) return;
        yield () => chunk.run(tile, layer);
      }
      chunk.nextLayer();
    }
    // The last layer is only heard.
    for (const tile of tiles) {
      if (isDropped()) return;
      yield () => chunk.run(tile, model.numLayers);
    }
  }
}

/** Positions of a chunk's tokens, and of the first repeated one. */
interface Span {
  readonly from: number;
  readonly to: number;
  readonly end: number;
}

class RepeatedChunk {
  readonly #model: Model;
  readonly #pruning: RepeatedSequence;
  readonly #span: Span;
  /** Of the layer that is being opened, by KV head, */
  #opening: SeenEntries[] = [];
  /** and of the one that is being finished. */
  #finishing: SeenEntries[] = [];

  constructor(model: Model, pruning: RepeatedSequence, span: Span) {
    this.#model = model;
    this.#pruning = pruning;
    this.#span = span;
  }

  nextLayer(): void {
    this.#finishing = this.#opening;
    this.#opening = [];
  }

  async run(tile: RowBatch, layer: number): Promise<void> {
    const model = this.#model;
    const isLast = layer === model.numLayers;
    const { layers: plan } = this.#pruning.policies;
    const shape = model.architecture.layers[layer - 1]?.attention ?? null;
    const feed = this.#feed(layer - 1, tile);
    const { positions } = tile;
    const result = await model.session.run({
      layer,
      numRows: positions.length,
      hidden: tile.hidden,
      projected: feed === null ? null : tile.projected,
      rope: isLast ? null : model.rope.range(positions[0] ?? 0, (positions.at(-1) ?? 0) + 1),
      attention: feed ?? (shape === null ? { kind: 'none' } : { kind: 'skip', shape }),
      signal: feed === null ? 'none' : 'columnMaxima',
      parts: {
        attention: feed !== null || shape === null,
        mlp: !isLast && plan?.mlp[layer - 1] !== false,
        open: !isLast && plan?.attention[layer] !== false,
      },
    });
    if (feed !== null) this.#score(layer - 1, tile, result.signal);
    tile.hidden = result.hidden;
    tile.projected = result.projected;
    if (result.projected.length > 0) this.#keep(layer, result.projected, tile);
  }

  /** Null where no attention runs. */
  #feed(layer: number, tile: RowBatch): AttentionFeed | null {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null || this.#pruning.policies.layers?.attention[layer] === false) return null;
    const heads = this.#finishing.map((seen) => {
      const { from, to } = this.#reach(layer, seen, tile);
      const entries = (all: Float32Array): Float32Array =>
        all.subarray(from * shape.headDim, to * shape.headDim);
      const mask = this.#mask(layer, tile, seen.positions.subarray(from, to));
      return { keys: entries(seen.keys), values: entries(seen.values), mask };
    });
    return { kind: 'tile', shape, heads, headScale: this.#pruning.headScale(layer) };
  }

  #window(layer: number): number | null {
    return this.#model.architecture.layers[layer]?.window ?? null;
  }

  /** What any row of the tile sees. */
  #reach(layer: number, { positions }: SeenEntries, tile: RowBatch): { from: number; to: number } {
    const [first = 0, last = 0] = [tile.positions[0], tile.positions.at(-1)];
    return {
      from: firstInWindow(positions, first, this.#window(layer)),
      to: lowerBound(positions, last + 1),
    };
  }

  /** For the last of these entries, or all. */
  #mask(layer: number, { positions: rows }: RowBatch, entries: Int32Array): Float32Array {
    const window = this.#window(layer);
    const isCut = window !== null && (rows.at(-1) ?? 0) - (entries[0] ?? 0) >= window;
    return isCut
      ? maskOf(rows, entries, { streaming: null, window, selected: null })
      : causalMask(rows.length);
  }

  /** The most that any row of the tile gave to each entry that was there before the repetition. */
  #score(layer: number, tile: RowBatch, signal: Float32Array): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null) return;
    let at = 0;
    this.#pruning.pruned.heads(layer).forEach(({ scores }, j) => {
      const seen = this.#finishing[j];
      invariant(seen !== undefined, 'what a layer fed was gathered when it was opened');
      const { from, to } = this.#reach(layer, seen, tile);
      for (let query = 0; query < shape.queryHeads / shape.kvHeads; query++) {
        for (let i = from; i < to; i++) {
          const value = signal[at++] ?? 0;
          const slot = seen.slots[i];
          if (slot !== undefined) scores[slot] = Math.max(scores[slot] ?? 0, value);
        }
      }
    });
  }

  /** Puts the tile's keys and values behind what its rows see of the cache. */
  #keep(layer: number, projected: Float32Array, tile: RowBatch): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null) return;
    const { queryHeads, kvHeads, headDim } = shape;
    const width = projected.length / tile.positions.length;
    this.#pruning.pruned.heads(layer).forEach((head, j) => {
      const { keys, values, positions } = (this.#opening[j] ??= this.#see(layer, head));
      const start = lowerBound(positions, tile.positions[0] ?? 0);
      for (let row = 0; row < tile.positions.length; row++) {
        const column = (index: number): Float32Array =>
          projected.subarray(row * width + index * headDim, row * width + (index + 1) * headDim);
        keys.set(column(queryHeads + j), (start + row) * headDim);
        values.set(column(queryHeads + kvHeads + j), (start + row) * headDim);
      }
    });
  }

  /** What the chunk's rows may see of a head, with room behind it for the repetition. */
  #see(layer: number, { cache, positions }: PrunedHead): SeenEntries {
    const { from, to, end } = this.#span;
    const { headDim } = cache;
    const oldest = end + 1 - (this.#window(layer) ?? Infinity);
    const seesChunk = oldest <= from;
    const numSinks = seesChunk ? lowerBound(positions, Math.min(NUM_SINKS, from)) : 0;
    const firstSlot = lowerBound(positions, Math.max(from, oldest));
    const endSlot = lowerBound(positions, seesChunk ? to : end);
    const slots = joined(range(0, numSinks), range(firstSlot, endSlot));
    const gather = (entries: (begin: number, end: number) => Float32Array): Float32Array => {
      const all = new Float32Array((slots.length + to - from) * headDim);
      all.set(entries(0, numSinks));
      all.set(entries(firstSlot, endSlot), numSinks * headDim);
      return all;
    };
    return {
      keys: gather((begin, end) => cache.keys(begin, end)),
      values: gather((begin, end) => cache.values(begin, end)),
      positions: joined(
        slots.map((slot) => positions[slot] ?? 0),
        range(end, end + to - from),
      ),
      slots,
    };
  }
}
