/** A prompt on its way through a prefill pass under its policies: rows may leave, entries may go. */
import { invariant } from '../../errors.ts';
import type { Model } from '../model.ts';
import type { Job, LastRow, PrefillLane, PrefillRequest } from '../prefill-lane.ts';
import { LOGIT_ROWS, tileRowsFor } from '../prefill-lane.ts';
import { type PartialRun, runRows } from './layer-run.ts';
import { repeatPrompt } from './repetition.ts';
import { complement, mergeRows, type RowBatch, takeRows, tilesOf } from './row-batch.ts';
import type { Observation, SequencePruning } from './sequence-pruning.ts';

/** Where a pruned sequence's rows find room. */
export interface RowRoom {
  /** Makes room for `numRows` more entries in all heads of a layer. False = the sequence has lost its cache instead. */
  readonly reserve: (layer: number, numRows: number) => boolean;
  /** The same for rows that stop after a layer, in the auxiliary cache. */
  readonly reserveAux: (layer: number, numRows: number) => boolean;
}

export interface PrunedRequest extends PrefillRequest, RowRoom {
  readonly pruning: SequencePruning;
}

const NOTHING: Observation = { scores: false, importance: false };
const NONE = new Int32Array(0);
const EMPTY: RowBatch = { positions: NONE, hidden: new Float32Array(0), projected: new Float32Array(0) };

function positionsOf(batches: readonly RowBatch[]): Int32Array {
  return Int32Array.from(batches.flatMap(({ positions }) => [...positions]));
}

function indicesWhere(length: number, isWanted: (i: number) => boolean): Int32Array {
  return Int32Array.from({ length }, (_, i) => i).filter(isWanted);
}

export class PrunedLane implements PrefillLane {
  readonly cache;
  dropped = false;
  readonly numTileRuns: number;
  numTileRunsDone = 0;
  readonly #model: Model;
  readonly #request: PrunedRequest;
  readonly #pruning: SequencePruning;
  readonly #maxTileRows: number;
  /** Rows of the observation window: they make the last tile. */
  readonly #windowRows: number;
  /** Rows that have entered the current layer, in tiles ascending by position. */
  #tiles: RowBatch[];
  /** Rows that pass by the current layer. */
  #passing: RowBatch | null = null;

  constructor(model: Model, request: PrunedRequest, maxTileRows: number) {
    const { tokenIds, start, cache, pruning } = request;
    const { tokens, policies } = pruning;
    this.#model = model;
    this.#request = request;
    this.#pruning = pruning;
    this.cache = cache;
    this.#maxTileRows = maxTileRows;
    const { kv } = policies;
    this.#windowRows =
      kv?.kind === 'evict' ? ({ last: 1, window: kv.window }[kv.observes as string] ?? 0) : 0;
    const positions = Int32Array.from(tokenIds, (_, i) => start + i);
    const empty = { positions, hidden: new Float32Array(0), projected: new Float32Array(0) };
    this.#tiles = this.#tile(empty);
    this.numTileRuns = model.numLayers * this.#tiles.length;
    tokens?.extend(start + tokenIds.length);
    tokens?.noteSeen(tokenIds.length);
  }

  get #end(): number {
    return this.#request.start + this.#request.tokenIds.length;
  }

  /** Tiles of alive rows: those that see much are lower, as `tileRowsFor` says. */
  #tile(batch: RowBatch, lastRows = this.#windowRows): RowBatch[] {
    const { start } = this.#request;
    return tilesOf(batch, (begin) => tileRowsFor(start + begin, this.#maxTileRows), lastRows);
  }

  *layerJobs(layer: number): Generator<Job, void> {
    if (layer === 0) {
      const { tokenIds, start } = this.#request;
      for (const tile of this.#tiles) {
        const [first = 0, last = 0] = [tile.positions[0], tile.positions.at(-1)];
        tile.hidden = this.#model.embedding.rows(tokenIds.subarray(first - start, last + 1 - start));
        if (this.dropped) return;
        yield () => this.#run(tile, { layer, finish: 'not', open: true });
      }
      return;
    }
    yield* this.#cross(layer);
    if (this.dropped) return;
    this.#pruning.tokens?.selectHeads(layer - 1);
    this.#pruning.layerDone(layer - 1, this.#end);
  }

  /** Finishes layer - 1 for all rows that need it, and opens `layer` for those that enter it. */
  *#cross(layer: number): Generator<Job, void> {
    const { tokens } = this.#pruning;
    const numAlive = this.#numEntered + (this.#passing?.positions.length ?? 0);
    const budget = tokens?.policy.budget(layer - 1, numAlive, this.#request.tokenIds.length) ?? null;
    if (tokens === null || (budget === null && this.#passing === null)) {
      yield* this.#each(this.#tiles, { layer, finish: 'whole', open: true });
    } else if (tokens.policy.observes === 'all') {
      // Every row's attention counts, so that all must be through the layer before the first can be chosen.
      yield* this.#each(this.#tiles, { layer, finish: 'whole', open: false });
      if (this.dropped) return;
      const finished = mergeRows(this.#tiles);
      const selected = this.#select(layer - 1, finished.positions, budget);
      this.#tiles = this.#tile(takeRows([finished], selected));
      yield* this.#each(this.#tiles, { layer, finish: 'not', open: true });
    } else yield* this.#choose(layer, budget);
  }

  /** The last row's attention decides, which needs no other row: those that leave need not even finish layer - 1. */
  *#choose(layer: number, budget: number | null): Generator<Job, void> {
    const { tokens } = this.#pruning;
    invariant(tokens !== null, 'a token policy is in force');
    const { observes, rest, revives } = tokens.policy;
    if (budget !== null && observes === 'last') {
      yield () => this.#probe(layer);
      if (this.dropped) return;
    }
    const entered = positionsOf(this.#tiles);
    const passing = this.#passing ?? EMPTY;
    const alive = positionsOf([...this.#tiles, passing]).sort();
    const chosen = new Set(Array.from(this.#select(layer - 1, alive, budget), (i) => alive[i] ?? 0));
    const chosenOf = (positions: Int32Array): Int32Array =>
      indicesWhere(positions.length, (i) => chosen.has(positions[i] ?? 0));
    const going = chosenOf(entered);
    if (rest === 'leave' && !revives) {
      this.#tiles = this.#tile(takeRows(this.#tiles, going));
      yield* this.#each(this.#tiles, { layer, finish: 'whole', open: true });
      return;
    }
    const entering = chosenOf(passing.positions);
    const goingTiles = this.#tile(takeRows(this.#tiles, going));
    const leavingTiles = this.#tile(takeRows(this.#tiles, complement(going, entered.length)), 0);
    const enteringTiles = this.#tile(takeRows([passing], entering), 0);
    yield* this.#each(goingTiles, { layer, finish: 'whole', open: true }, false);
    yield* this.#each(leavingTiles, { layer, finish: 'whole', open: false }, false);
    yield* this.#each(enteringTiles, { layer, finish: 'not', open: true }, false);
    if (this.dropped) return;
    const next = mergeRows([...goingTiles, ...enteringTiles]);
    this.#append(layer, next);
    this.#tiles = this.#tile(next);
    const staying = takeRows([passing], complement(entering, passing.positions.length));
    const left = mergeRows([...leavingTiles.map(withoutProjected), withoutProjected(staying)]);
    if (rest === 'pass') this.#passing = left.positions.length > 0 ? left : null;
    else this.#save(layer - 1, left);
  }

  /** Ascending indices of the alive tokens that enter the next layer. */
  #select(layer: number, alive: Int32Array, budget: number | null): Int32Array {
    const { tokens } = this.#pruning;
    if (tokens === null || budget === null) return alive.map((_, i) => i);
    const importance = tokens.importanceOf(alive);
    const input = { layer, numLayers: this.#model.numLayers, positions: alive.slice(), importance };
    const selected = tokens.policy.select(input, budget);
    const isSound =
      selected.length <= budget &&
      selected.at(-1) === alive.length - 1 &&
      selected.every((index, i) => i === 0 || index > (selected[i - 1] ?? 0));
    invariant(
      isSound,
      'a token policy returns ascending indices within its budget, the last token among them',
    );
    tokens.noteStage({ layer, seen: alive.length, kept: selected.length });
    return selected;
  }

  /** Keeps where the rows that leave have come to, for decode steps that want them back. */
  #save(layer: number, left: RowBatch): void {
    if (this.dropped) return;
    if (this.#request.reserveAux(layer, left.positions.length))
      this.#pruning.aux.put(layer, left.positions, left.hidden);
    else this.dropped = true;
  }

  /** The last row's attention at layer - 1. */
  async #probe(layer: number): Promise<void> {
    const tile = this.#tiles.at(-1);
    invariant(tile !== undefined, 'the last row is always alive');
    const rows = takeRows([tile], Int32Array.of(tile.positions.length - 1));
    const { fed, signal } = await runRows(this.#model, this.#pruning, {
      layer,
      rows,
      finish: 'attend',
      open: false,
      phase: 'prompt',
      signal: 'lastQuery',
    });
    if (this.dropped) return;
    // Without attention here, what was heard last holds on.
    if (fed.length === 0) return;
    for (const { positions } of this.#tiles) this.#pruning.tokens?.forget(positions);
    this.#pruning.observe(layer - 1, fed, signal, { scores: false, importance: true });
  }

  *#each(
    tiles: readonly RowBatch[],
    run: Pick<PartialRun, 'layer' | 'finish' | 'open'>,
    appends = true,
  ): Generator<Job, void> {
    for (const tile of tiles) {
      if (this.dropped) return;
      yield () => this.#run(tile, run, appends);
    }
  }

  async #run(
    tile: RowBatch,
    run: Pick<PartialRun, 'layer' | 'finish' | 'open'>,
    appends = true,
  ): Promise<void> {
    const observation = run.finish === 'not' ? NOTHING : this.#observation(tile);
    const signal = observation === NOTHING ? 'none' : 'columnSums';
    const result = await runRows(this.#model, this.#pruning, { ...run, rows: tile, phase: 'prompt', signal });
    this.numTileRunsDone++;
    if (this.dropped) return;
    if (observation !== NOTHING) this.#pruning.observe(run.layer - 1, result.fed, result.signal, observation);
    if (run.finish === 'whole') tile.hidden = result.hidden;
    tile.projected = result.projected;
    if (run.open && appends) this.#append(run.layer, tile);
  }

  #observation({ positions }: RowBatch): Observation {
    // Not simply the last of some tiles: rows that leave come in tiles of their own.
    const isLast = positions.at(-1) === this.#end - 1;
    const { kv, tokens } = this.#pruning.policies;
    const observes = kv?.kind === 'evict' ? kv.observes : 'none';
    const scores = observes === 'all' || (isLast && (observes === 'last' || observes === 'window'));
    const importance = tokens?.observes === 'all';
    return scores || importance ? { scores, importance } : NOTHING;
  }

  #append(layer: number, rows: RowBatch): void {
    this.#pruning.tokens?.noteRows(rows.positions.length);
    if (this.#request.reserve(layer, rows.positions.length)) {
      this.#pruning.append(layer, rows.projected, rows.positions);
    } else this.dropped = true;
  }

  get #numEntered(): number {
    return this.#tiles.reduce((sum, { positions }) => sum + positions.length, 0);
  }

  /** Its last row waits for evictions: it cannot share a run with other prompts. */
  lastRow(): LastRow | null {
    return null;
  }

  end(): void {
    invariant(false, 'a pruned prompt ends by itself');
  }

  *closingJobs(): Generator<Job, void> {
    const { logits, onLogits, tokenIds, start } = this.#request;
    // Whoever passed by the last layer has nothing left to do; the last token never does.
    this.#passing = null;
    yield* this.#observeLastLayer();
    const last = Int32Array.of(this.#numEntered - 1);
    const wanted =
      logits === 'all' ? mergeRows(this.#tiles) : takeRows(this.#tiles, logits === 'last' ? last : NONE);
    // The last row's logits wait: whoever receives them may copy the cache, which must be pruned by then.
    const held: Float32Array[] = [];
    for (const tile of tilesOf(wanted, () => LOGIT_ROWS)) {
      if (this.#isOver()) return;
      yield () => this.#close(tile, held);
    }
    if (this.#isOver()) return;
    this.#pruning.layerDone(this.#model.numLayers - 1, this.#end);
    const { kv } = this.#pruning.policies;
    if (kv?.kind === 'evict' && kv.observes === 'repeated')
      yield* repeatPrompt(this.#model, this.#pruning, { tokenIds, start, isDropped: () => this.dropped });
    if (this.#isOver()) return;
    this.#pruning.promptDone();
    for (const values of held) onLogits(tokenIds.length - 1, values);
  }

  /** Asked between two jobs, during which anything may have happened. */
  #isOver(): boolean {
    return this.dropped;
  }

  /** Rows through the last layer and the head. */
  async #close(rows: RowBatch, held: Float32Array[]): Promise<void> {
    const { onLogits, start } = this.#request;
    const run = { layer: this.#model.numLayers, rows, finish: 'whole', open: true, phase: 'prompt' } as const;
    const { hidden } = await runRows(this.#model, this.#pruning, run);
    const width = hidden.length / rows.positions.length;
    rows.positions.forEach((position, row) => {
      if (this.dropped) return;
      const values = hidden.subarray(row * width, (row + 1) * width);
      if (position === this.#end - 1) held.push(values);
      else onLogits(position - start, values);
    });
  }

  /** Only the last row needs the last layer's result, but other rows may have to be heard. */
  *#observeLastLayer(): Generator<Job, void> {
    const layer = this.#model.numLayers;
    const tiles = this.#tiles.filter((tile) => this.#observation(tile).scores);
    for (const tile of tiles) {
      if (this.dropped) return;
      yield async () => {
        const run = { layer, rows: tile, finish: 'attend', open: false, phase: 'prompt' } as const;
        const { fed, signal } = await runRows(this.#model, this.#pruning, { ...run, signal: 'columnSums' });
        if (!this.dropped) this.#pruning.observe(layer - 1, fed, signal, { scores: true, importance: false });
      };
    }
  }
}

function withoutProjected({ positions, hidden }: RowBatch): RowBatch {
  return { positions, hidden, projected: new Float32Array(0) };
}
