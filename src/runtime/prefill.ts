/**
 * A prefill pass: prompts go through the model layer by layer, in tiles of rows. A layer's weights stay in the
 * processor's cache while all tiles pass, and the engine can do other work between any two tiles.
 */
import type { SequenceCache } from '../kv/sequence-cache.ts';
import { decodeFeed, decodeSlots } from './attention-feed.ts';
import type { Model } from './model.ts';
import { DenseLane, type Job, type PrefillLane, type PrefillRequest, rowsOf } from './prefill-lane.ts';
import { PrunedLane, type PrunedRequest } from './pruning/pruned-lane.ts';

/** Rows of a tile: 256 were faster than 128 up to 1,024 tokens, equal at 4,096; 384 gained nothing more. */
const TILE_ROWS = 256;

export class PrefillPass {
  readonly #model: Model;
  readonly #lanes: readonly PrefillLane[];
  readonly #jobs: Iterator<Job>;

  constructor(model: Model, requests: readonly (PrefillRequest | PrunedRequest)[], maxTileRows = TILE_ROWS) {
    this.#model = model;
    this.#lanes = requests.map((request) =>
      'pruning' in request
        ? new PrunedLane(model, request, maxTileRows)
        : new DenseLane(model, request, maxTileRows),
    );
    this.#jobs = this.#plan();
  }

  /** Share of the work that is done, 0 to 1. */
  get share(): number {
    const [done, all] = this.#lanes.reduce(
      ([done, all], lane) => [
        done + Math.min(lane.numTileRunsDone, lane.numTileRuns),
        all + lane.numTileRuns,
      ],
      [0, 0],
    );
    return done / all;
  }

  /** Stops work for a sequence: its cache may be freed at once. */
  drop(cache: SequenceCache): void {
    for (const lane of this.#lanes) if (lane.cache === cache) lane.dropped = true;
  }

  /** Runs one tile. False when the pass was already complete. */
  async step(): Promise<boolean> {
    const next = this.#jobs.next();
    if (next.done === true) return false;
    await next.value();
    return true;
  }

  *#plan(): Generator<Job, void> {
    for (let layer = 0; layer < this.#model.numLayers; layer++) {
      for (const lane of this.#lanes) if (!lane.dropped) yield* lane.layerJobs(layer);
    }
    const alive = this.#lanes.filter((lane) => !lane.dropped);
    const last = alive.filter((lane) => lane.lastRow() !== null);
    // Only K and V of the last layer are needed for the other rows: its attention and MLP run for one row a prompt.
    const groupSize = this.#model.session.decodeSizes.at(-1) ?? 1;
    for (let i = 0; i < last.length; i += groupSize) {
      const group = last.slice(i, i + groupSize);
      yield () => this.#runLastRows(group.filter((lane) => !lane.dropped));
    }
    for (const lane of alive) if (!last.includes(lane) && !lane.dropped) yield* lane.closingJobs();
  }

  /** The last row of each prompt through the last layer and the head, like a decode step's last run. */
  async #runLastRows(lanes: readonly PrefillLane[]): Promise<void> {
    if (lanes.length === 0) return;
    const model = this.#model;
    const attention = decodeFeed(
      model,
      model.numLayers - 1,
      lanes.map((lane) => lane.cache),
    );
    const numRows = decodeSlots(model, lanes.length);
    const rows = lanes.flatMap((lane) => lane.lastRow() ?? []);
    const gather = (pick: (row: (typeof rows)[number]) => Float32Array): Float32Array => {
      const width = rows[0] === undefined ? 0 : pick(rows[0]).length;
      const all = new Float32Array(numRows * width);
      rows.forEach((row, i) => {
        all.set(pick(row), i * width);
      });
      return all;
    };
    const result = await model.session.run({
      layer: model.numLayers,
      numRows,
      hidden: gather((row) => row.hidden),
      projected: attention.kind === 'none' ? null : gather((row) => row.projected),
      rope: null,
      attention,
      signal: 'none',
    });
    lanes.forEach((lane, i) => {
      if (!lane.dropped) lane.end(rowsOf(result.hidden, numRows, i, i + 1));
    });
  }
}
