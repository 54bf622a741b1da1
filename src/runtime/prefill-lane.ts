/** One prompt in a prefill pass: its rows go through the layers in tiles. */
import { invariant } from '../errors.ts';
import type { AttentionFeed } from '../graph/session.ts';
import type { SequenceCache } from '../kv/sequence-cache.ts';
import { appendProjected, tileFeed } from './attention-feed.ts';
import type { Model } from './model.ts';

/** Where rows see this many entries, tiles are half as high: the scores of one tile would take too much memory. */
const LONG_CONTEXT = 2048;

/** Rows whose logits are computed at a time when all of them are wanted: bounds [rows, vocabSize]. */
export const LOGIT_ROWS = 32;

export interface PrefillRequest {
  /** Tokens to compute; the first stands at position `start`. */
  readonly tokenIds: Int32Array;
  readonly start: number;
  /** Holds the entries before `start`, in every head if nothing is pruned, and then has room for the new ones. */
  readonly cache: SequenceCache;
  /** Which rows need logits: the last one, all of them (to score a prompt), or none (the prompt goes on later). */
  readonly logits: 'last' | 'all' | 'none';
  /** Receives logits [vocabSize], row by row in ascending order; `row` counts from `start`. */
  readonly onLogits: (row: number, logits: Float32Array) => void;
}

export type Job = () => Promise<void>;

/** The last row of a prompt, ready for the run after the last layer. */
export interface LastRow {
  /** [hiddenSize] */
  readonly hidden: Float32Array;
  readonly projected: Float32Array;
}

export interface PrefillLane {
  readonly cache: SequenceCache;
  /** True = nobody wants the result any more, and the cache may be gone. */
  dropped: boolean;
  /** Expected and done, over all layers. */
  readonly numTileRuns: number;
  readonly numTileRunsDone: number;
  /** Opens a layer for all rows, after finishing the one before it. */
  layerJobs(layer: number): Iterable<Job>;
  /** Where only the last row goes through the last layer, alone: all such prompts share one run. */
  lastRow(): LastRow | null;
  /** What remains after the last layer was opened, where `lastRow` is null. */
  closingJobs(): Iterable<Job>;
  /** Receives the logits of the last row. */
  end(logits: Float32Array): void;
}

/** Rows of a tile that begins behind so many entries. */
export function tileRowsFor(numEntries: number, maxTileRows: number): number {
  return numEntries + maxTileRows > LONG_CONTEXT ? Math.ceil(maxTileRows / 2) : maxTileRows;
}

/** Rows [from, to) of a [rows, width] array. */
export function rowsOf(data: Float32Array, numRows: number, from: number, to: number): Float32Array {
  const width = data.length / numRows;
  return data.subarray(from * width, to * width);
}

interface Tile {
  readonly begin: number;
  readonly end: number;
  hidden: Float32Array;
  projected: Float32Array;
}

/** Nothing is pruned: slots are positions, and all rows pass all layers. */
export class DenseLane implements PrefillLane {
  dropped = false;
  readonly numTileRuns: number;
  numTileRunsDone = 0;
  readonly #model: Model;
  readonly #request: PrefillRequest;
  readonly #tiles: Tile[];

  constructor(model: Model, request: PrefillRequest, maxTileRows: number) {
    this.#model = model;
    this.#request = request;
    const total = request.tokenIds.length;
    invariant(total > 0, 'a prefill lane has at least one token');
    const tiles: Tile[] = [];
    for (let begin = 0; begin < total;) {
      const end = Math.min(total, begin + tileRowsFor(request.start + begin, maxTileRows));
      tiles.push({ begin, end, hidden: new Float32Array(0), projected: new Float32Array(0) });
      begin = end;
    }
    this.#tiles = tiles;
    this.numTileRuns = model.numLayers * this.#tiles.length;
  }

  get cache(): SequenceCache {
    return this.#request.cache;
  }

  *layerJobs(layer: number): Generator<Job, void> {
    for (const tile of this.#tiles) {
      if (this.dropped) return;
      yield () => this.#runTile(tile, layer);
    }
  }

  lastRow(): LastRow | null {
    const tile = this.#tiles.at(-1);
    if (this.#request.logits !== 'last' || tile === undefined) return null;
    const size = tile.end - tile.begin;
    return {
      hidden: rowsOf(tile.hidden, size, size - 1, size),
      projected: rowsOf(tile.projected, size, size - 1, size),
    };
  }

  *closingJobs(): Generator<Job, void> {
    if (this.#request.logits !== 'all') return;
    for (const tile of this.#tiles) {
      for (let from = tile.begin; from < tile.end; from += LOGIT_ROWS) {
        if (this.dropped) return;
        yield () => this.#runAllRows(tile, from, Math.min(from + LOGIT_ROWS, tile.end));
      }
    }
  }

  end(logits: Float32Array): void {
    this.#request.onLogits(this.#request.tokenIds.length - 1, logits);
  }

  #attention(layer: number, begin: number, end: number): AttentionFeed {
    if (layer === 0) return { kind: 'none' };
    const { start, cache } = this.#request;
    return tileFeed(this.#model, layer - 1, cache, start + begin, start + end);
  }

  async #runTile(tile: Tile, layer: number): Promise<void> {
    const { session, embedding, rope } = this.#model;
    const { tokenIds, start, cache } = this.#request;
    const numRows = tile.end - tile.begin;
    if (layer === 0) tile.hidden = embedding.rows(tokenIds.subarray(tile.begin, tile.end));
    const attention = this.#attention(layer, tile.begin, tile.end);
    const result = await session.run({
      layer,
      numRows,
      hidden: tile.hidden,
      projected: attention.kind === 'none' ? null : tile.projected,
      rope: rope.range(start + tile.begin, start + tile.end),
      attention,
      signal: 'none',
    });
    this.numTileRunsDone++;
    tile.hidden = result.hidden;
    tile.projected = result.projected;
    if (!this.dropped) appendProjected(this.#model, layer, cache, result.projected, numRows);
  }

  async #runAllRows(tile: Tile, from: number, to: number): Promise<void> {
    const model = this.#model;
    const size = tile.end - tile.begin;
    const attention = this.#attention(model.numLayers, from, to);
    const cut = (data: Float32Array): Float32Array => rowsOf(data, size, from - tile.begin, to - tile.begin);
    const result = await model.session.run({
      layer: model.numLayers,
      numRows: to - from,
      hidden: cut(tile.hidden),
      projected: attention.kind === 'none' ? null : cut(tile.projected),
      rope: null,
      attention,
      signal: 'none',
    });
    for (let row = from; row < to && !this.dropped; row++) {
      this.#request.onLogits(row, rowsOf(result.hidden, to - from, row - from, row - from + 1));
    }
  }
}
