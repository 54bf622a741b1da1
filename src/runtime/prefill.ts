/**
 * A prefill pass: prompts go through the model layer by layer, in tiles of rows. A layer's weights stay in the
 * processor's cache while all tiles pass, and the engine can do other work between any two tiles.
 */
import type { AttentionFeed } from '../graph/session.ts';
import { invariant } from '../errors.ts';
import type { SequenceCache } from '../kv/sequence-cache.ts';
import { appendProjected, decodeFeed, decodeSlots, tileFeed } from './attention-feed.ts';
import type { Model } from './model.ts';

/** Rows of a tile: 256 were faster than 128 up to 1,024 tokens, equal at 4,096; 384 gained nothing more. */
const TILE_ROWS = 256;
/** Where rows see this many entries, tiles are half as high: the scores of one tile would take too much memory. */
const LONG_CONTEXT = 2048;

/** Rows whose logits are computed at a time when all of them are wanted: bounds [rows, vocabSize]. */
const LOGIT_ROWS = 32;

export interface PrefillRequest {
  /** Tokens to compute; the first stands at position `start`. */
  readonly tokenIds: Int32Array;
  readonly start: number;
  /** Holds `start` entries in every head, and has room for the new ones. */
  readonly cache: SequenceCache;
  /** Which rows need logits: the last one, all of them (to score a prompt), or none (the prompt goes on later). */
  readonly logits: 'last' | 'all' | 'none';
  /** Receives logits [vocabSize], row by row in ascending order; `row` counts from `start`. */
  readonly onLogits: (row: number, logits: Float32Array) => void;
}

interface Tile {
  readonly begin: number;
  readonly end: number;
  hidden: Float32Array;
  projected: Float32Array;
}

class Lane {
  readonly request: PrefillRequest;
  readonly tiles: Tile[];
  dropped = false;

  constructor(request: PrefillRequest, maxTileRows: number) {
    this.request = request;
    const total = request.tokenIds.length;
    invariant(total > 0, 'a prefill lane has at least one token');
    const isLong = request.start + total > LONG_CONTEXT;
    const tileRows = isLong ? Math.ceil(maxTileRows / 2) : maxTileRows;
    this.tiles = Array.from({ length: Math.ceil(total / tileRows) }, (_, i) => ({
      begin: i * tileRows,
      end: Math.min((i + 1) * tileRows, total),
      hidden: new Float32Array(0),
      projected: new Float32Array(0),
    }));
  }
}

/** Rows [from, to) of a [rows, width] array. */
function rowsOf(data: Float32Array, numRows: number, from: number, to: number): Float32Array {
  const width = data.length / numRows;
  return data.subarray(from * width, to * width);
}

export class PrefillPass {
  readonly #model: Model;
  readonly #lanes: readonly Lane[];
  readonly #jobs: Iterator<() => Promise<void>>;
  readonly #numTileRuns: number;
  #numTileRunsDone = 0;

  constructor(model: Model, requests: readonly PrefillRequest[], maxTileRows = TILE_ROWS) {
    this.#model = model;
    this.#lanes = requests.map((request) => new Lane(request, maxTileRows));
    this.#jobs = this.#plan();
    this.#numTileRuns = model.numLayers * this.#lanes.reduce((sum, lane) => sum + lane.tiles.length, 0);
  }

  /** Share of the work that is done, 0 to 1. */
  get share(): number {
    return this.#numTileRunsDone / this.#numTileRuns;
  }

  /** Stops work for a sequence: its cache may be freed at once. */
  drop(cache: SequenceCache): void {
    for (const lane of this.#lanes) if (lane.request.cache === cache) lane.dropped = true;
  }

  /** Runs one tile. False when the pass was already complete. */
  async step(): Promise<boolean> {
    const next = this.#jobs.next();
    if (next.done === true) return false;
    await next.value();
    return true;
  }

  *#plan(): Generator<() => Promise<void>, void> {
    for (let layer = 0; layer < this.#model.numLayers; layer++) {
      for (const lane of this.#lanes) {
        for (const tile of lane.tiles) {
          if (lane.dropped) break;
          yield () => this.#runTile(lane, tile, layer);
        }
      }
    }
    const alive = this.#lanes.filter((lane) => !lane.dropped);
    const last = alive.filter((lane) => lane.request.logits === 'last');
    // Only K and V of the last layer are needed for the other rows: its attention and MLP run for one row a prompt.
    const groupSize = this.#model.session.decodeSizes.at(-1) ?? 1;
    for (let i = 0; i < last.length; i += groupSize) {
      const group = last.slice(i, i + groupSize);
      yield () => this.#runLastRows(group.filter((lane) => !lane.dropped));
    }
    for (const lane of alive.filter((l) => l.request.logits === 'all')) {
      for (const tile of lane.tiles) {
        for (let from = tile.begin; from < tile.end; from += LOGIT_ROWS) {
          if (lane.dropped) break;
          yield () => this.#runAllRows(lane, tile, from, Math.min(from + LOGIT_ROWS, tile.end));
        }
      }
    }
  }

  #attention(lane: Lane, layer: number, begin: number, end: number): AttentionFeed {
    if (layer === 0) return { kind: 'none' };
    const { start, cache } = lane.request;
    return tileFeed(this.#model, layer - 1, cache, start + begin, start + end);
  }

  async #runTile(lane: Lane, tile: Tile, layer: number): Promise<void> {
    const { session, embedding, rope } = this.#model;
    const { tokenIds, start, cache } = lane.request;
    const numRows = tile.end - tile.begin;
    if (layer === 0) tile.hidden = embedding.rows(tokenIds.subarray(tile.begin, tile.end));
    const attention = this.#attention(lane, layer, tile.begin, tile.end);
    const result = await session.run({
      layer,
      numRows,
      hidden: tile.hidden,
      projected: attention.kind === 'none' ? null : tile.projected,
      rope: rope.range(start + tile.begin, start + tile.end),
      attention,
      signal: 'none',
    });
    this.#numTileRunsDone++;
    tile.hidden = result.hidden;
    tile.projected = result.projected;
    if (!lane.dropped) appendProjected(this.#model, layer, cache, result.projected, numRows);
  }

  /** The last row of each prompt through the last layer and the head, like a decode step's last run. */
  async #runLastRows(lanes: readonly Lane[]): Promise<void> {
    if (lanes.length === 0) return;
    const model = this.#model;
    const attention = decodeFeed(
      model,
      model.numLayers - 1,
      lanes.map((lane) => lane.request.cache),
    );
    const numRows = decodeSlots(model, lanes.length);
    const gather = (pick: (tile: Tile) => Float32Array): Float32Array => {
      const rows = lanes.map((lane) => {
        const tile = lane.tiles.at(-1);
        invariant(tile !== undefined, 'a lane has tiles');
        const size = tile.end - tile.begin;
        return rowsOf(pick(tile), size, size - 1, size);
      });
      const width = rows[0]?.length ?? 0;
      const all = new Float32Array(numRows * width);
      rows.forEach((row, i) => {
        all.set(row, i * width);
      });
      return all;
    };
    const result = await model.session.run({
      layer: model.numLayers,
      numRows,
      hidden: gather((tile) => tile.hidden),
      projected: attention.kind === 'none' ? null : gather((tile) => tile.projected),
      rope: null,
      attention,
      signal: 'none',
    });
    lanes.forEach((lane, i) => {
      if (!lane.dropped)
        lane.request.onLogits(lane.request.tokenIds.length - 1, rowsOf(result.hidden, numRows, i, i + 1));
    });
  }

  async #runAllRows(lane: Lane, tile: Tile, from: number, to: number): Promise<void> {
    const model = this.#model;
    const size = tile.end - tile.begin;
    const attention = this.#attention(lane, model.numLayers, from, to);
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
    for (let row = from; row < to && !lane.dropped; row++) {
      lane.request.onLogits(row, rowsOf(result.hidden, to - from, row - from, row - from + 1));
    }
  }
}
