/**
 * KVzip's scoring (arXiv 2505.23416): the prompt is read once more, in chunks, and each cache entry is worth the most
 * that any repeated row attends to it. A repeated row sees the first tokens, its chunk's entries and the repetition so
 * far, nothing else. Unlike the authors' code no instruction goes before the repetition: policies speak no language.
 */
import type { AttentionFeed } from '../../graph/session.ts';
import { lowerBound, type PrunedHead } from '../../kv/pruned-cache.ts';
import { causalMask } from '../attention-feed.ts';
import type { Model } from '../model.ts';
import type { Job } from '../prefill-lane.ts';
import type { RowBatch } from './row-batch.ts';
import { tilesOf } from './row-batch.ts';
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

/** What the repeated rows of a chunk see of one head: entries of the cache, and behind them their own so far. */
interface SeenEntries {
  /** [sinks + chunk + repeated, headDim] */
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly numSinks: number;
  /** Of the chunk's entries in the cache. */
  readonly firstSlot: number;
  readonly numChunk: number;
}

const EMPTY = new Float32Array(0);
const NOTHING_SEEN: SeenEntries = { keys: EMPTY, values: EMPTY, numSinks: 0, firstSlot: 0, numChunk: 0 };

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
    if (feed !== null) this.#score(layer - 1, result.signal);
    tile.hidden = result.hidden;
    tile.projected = result.projected;
    if (result.projected.length > 0) this.#keep(layer, result.projected, tile);
  }

  /** Null where no attention runs. */
  #feed(layer: number, tile: RowBatch): AttentionFeed | null {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null || this.#pruning.policies.layers?.attention[layer] === false) return null;
    const numRows = tile.positions.length;
    const numBefore = (tile.positions[0] ?? 0) - this.#span.end;
    const heads = this.#finishing.map(({ keys, values, numSinks, numChunk }) => {
      const end = (numSinks + numChunk + numBefore + numRows) * shape.headDim;
      return { keys: keys.subarray(0, end), values: values.subarray(0, end), mask: causalMask(numRows) };
    });
    return { kind: 'tile', shape, heads, headScale: this.#pruning.headScale(layer) };
  }

  /** The most that any row of the tile gave to each entry that was there before the repetition. */
  #score(layer: number, signal: Float32Array): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null) return;
    const group = shape.queryHeads / shape.kvHeads;
    const numSeen = this.#finishing.reduce((sum, { numSinks, numChunk }) => sum + numSinks + numChunk, 0);
    const numOwn = (signal.length / group - numSeen) / shape.kvHeads;
    let at = 0;
    this.#pruning.pruned.heads(layer).forEach(({ scores }, j) => {
      const { numSinks, firstSlot, numChunk } = this.#finishing[j] ?? NOTHING_SEEN;
      for (let query = 0; query < group; query++) {
        for (let i = 0; i < numSinks + numChunk; i++) {
          const slot = i < numSinks ? i : firstSlot + i - numSinks;
          scores[slot] = Math.max(scores[slot] ?? 0, signal[at++] ?? 0);
        }
        at += numOwn;
      }
    });
  }

  /** Puts the tile's keys and values behind what its rows see of the cache. */
  #keep(layer: number, projected: Float32Array, tile: RowBatch): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null) return;
    const { queryHeads, kvHeads, headDim } = shape;
    const numRows = tile.positions.length;
    const width = projected.length / numRows;
    const numBefore = (tile.positions[0] ?? 0) - this.#span.end;
    this.#pruning.pruned.heads(layer).forEach((head, j) => {
      const { keys, values, numSinks, numChunk } = (this.#opening[j] ??= this.#see(head));
      const start = (numSinks + numChunk + numBefore) * headDim;
      for (let row = 0; row < numRows; row++) {
        const column = (index: number): Float32Array =>
          projected.subarray(row * width + index * headDim, row * width + (index + 1) * headDim);
        keys.set(column(queryHeads + j), start + row * headDim);
        values.set(column(queryHeads + kvHeads + j), start + row * headDim);
      }
    });
  }

  /** What the chunk's rows see of a head, with room behind it for the repetition. */
  #see({ cache, positions }: PrunedHead): SeenEntries {
    const { from, to } = this.#span;
    const { headDim } = cache;
    const numSinks = lowerBound(positions, Math.min(NUM_SINKS, from));
    const firstSlot = lowerBound(positions, from);
    const numChunk = lowerBound(positions, to) - firstSlot;
    const gather = (entries: (begin: number, end: number) => Float32Array): Float32Array => {
      const all = new Float32Array((numSinks + numChunk + to - from) * headDim);
      all.set(entries(0, numSinks));
      all.set(entries(firstSlot, firstSlot + numChunk), numSinks * headDim);
      return all;
    };
    return {
      keys: gather((begin, end) => cache.keys(begin, end)),
      values: gather((begin, end) => cache.values(begin, end)),
      numSinks,
      firstSlot,
      numChunk,
    };
  }
}
