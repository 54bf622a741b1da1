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

/** Keys and values of one head for the repeated rows of a chunk, in order. */
interface OwnEntries {
  readonly keys: Float32Array;
  readonly values: Float32Array;
}

const EMPTY = new Float32Array(0);

/** Adds the maxima to the scores of the sequence's heads. Changes no cache. */
export function* repeatPrompt(
  model: Model,
  pruning: SequencePruning,
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
  readonly #pruning: SequencePruning;
  readonly #span: Span;
  /** Of the layer that is being opened, by KV head, */
  #opening: OwnEntries[] = [];
  /** and of the one that is being finished. */
  #finishing: OwnEntries[] = [];

  constructor(model: Model, pruning: SequencePruning, span: Span) {
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
      attention: feed?.attention ?? (shape === null ? { kind: 'none' } : { kind: 'skip', shape }),
      signal: feed === null ? 'none' : 'columnMaxima',
      parts: {
        attention: feed !== null || shape === null,
        mlp: !isLast && plan?.mlp[layer - 1] !== false,
        open: !isLast && plan?.attention[layer] !== false,
      },
    });
    if (feed !== null) this.#score(layer - 1, feed.slots, result.signal);
    tile.hidden = result.hidden;
    tile.projected = result.projected;
    if (result.projected.length > 0) this.#keep(layer, result.projected, tile);
  }

  /** Slots of a head that the chunk's rows see: the first tokens, and the chunk's own. */
  #slots({ positions }: PrunedHead): Int32Array {
    const numSinks = lowerBound(positions, Math.min(NUM_SINKS, this.#span.from));
    const from = lowerBound(positions, this.#span.from);
    const to = lowerBound(positions, this.#span.to);
    return Int32Array.from({ length: numSinks + to - from }, (_, i) =>
      i < numSinks ? i : from + i - numSinks,
    );
  }

  /** Null where no attention runs. */
  #feed(layer: number, tile: RowBatch): { attention: AttentionFeed; slots: Int32Array[] } | null {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null || this.#pruning.policies.layers?.attention[layer] === false) return null;
    const numRows = tile.positions.length;
    const numBefore = (tile.positions[0] ?? 0) - this.#span.end;
    const heads = this.#pruning.pruned.heads(layer);
    const slots = heads.map((head) => this.#slots(head));
    const views = heads.map(({ cache }, j) => {
      const own = this.#finishing[j] ?? { keys: EMPTY, values: EMPTY };
      const { headDim } = shape;
      const split = numBefore * headDim;
      const end = split + numRows * headDim;
      const seen = slots[j] ?? new Int32Array(0);
      const gather = (data: Float32Array, rest: Float32Array): Float32Array => {
        const all = new Float32Array(seen.length * headDim + rest.length);
        seen.forEach((slot, i) => {
          all.set(data.subarray(slot * headDim, (slot + 1) * headDim), i * headDim);
        });
        all.set(rest, seen.length * headDim);
        return all;
      };
      return {
        keys: gather(cache.keys(), own.keys.subarray(0, split)),
        tailKeys: own.keys.subarray(split, end),
        values: gather(cache.values(), own.values.subarray(0, end)),
        mask: causalMask(numRows),
      };
    });
    const headScale = this.#pruning.headScale(layer);
    return { attention: { kind: 'tile', shape, heads: views, headScale }, slots };
  }

  #score(layer: number, slots: readonly Int32Array[], signal: Float32Array): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null) return;
    const group = shape.queryHeads / shape.kvHeads;
    const widths = slots.map((seen) => seen.length);
    const numOwn = (signal.length / group - widths.reduce((a, b) => a + b, 0)) / shape.kvHeads;
    let at = 0;
    this.#pruning.pruned.heads(layer).forEach(({ scores }, j) => {
      for (let query = 0; query < group; query++) {
        for (const slot of slots[j] ?? []) {
          scores[slot] = Math.max(scores[slot] ?? 0, signal[at++] ?? 0);
        }
        at += numOwn;
      }
    });
  }

  #keep(layer: number, projected: Float32Array, tile: RowBatch): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null) return;
    const { queryHeads, kvHeads, headDim } = shape;
    const numRows = tile.positions.length;
    const width = projected.length / numRows;
    const length = (this.#span.to - this.#span.from) * headDim;
    const start = ((tile.positions[0] ?? 0) - this.#span.end) * headDim;
    for (let j = 0; j < kvHeads; j++) {
      const own = (this.#opening[j] ??= { keys: new Float32Array(length), values: new Float32Array(length) });
      for (let row = 0; row < numRows; row++) {
        const column = (head: number): Float32Array =>
          projected.subarray(row * width + head * headDim, row * width + (head + 1) * headDim);
        own.keys.set(column(queryHeads + j), start + row * headDim);
        own.values.set(column(queryHeads + kvHeads + j), start + row * headDim);
      }
    }
  }
}
