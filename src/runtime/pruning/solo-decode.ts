/**
 * A decode step of one sequence in runs of its own: LazyLLM, whose every step selects anew among all tokens and computes
 * those again that earlier steps left out (arXiv 2407.14057, section 3), and sequences with scaled heads.
 */
import { invariant } from '../../errors.ts';
import type { Model } from '../model.ts';
import { type PartialResult, type PartialRun, runRows } from './layer-run.ts';
import { joined } from './joined.ts';
import type { RowRoom } from './pruned-lane.ts';
import { complement, mergeRows, type RowBatch, takeRows, tilesOf } from './row-batch.ts';
import type { SequencePruning } from './sequence-pruning.ts';
import type { TokenState } from './token-state.ts';

export interface SoloRow extends RowRoom {
  readonly tokenId: number;
  readonly position: number;
  readonly pruning: SequencePruning;
}

const NONE = new Float32Array(0);

/** The positions that a step may see from some layer on. */
interface Selected {
  /** Ascending; the row's own is the last. */
  readonly positions: Int32Array;
  /** By position. */
  readonly flags: Uint8Array;
}

/** @returns logits [vocabSize], or null if the sequence lost its cache */
export async function soloStep(model: Model, row: SoloRow): Promise<Float32Array | null> {
  const { pruning, position } = row;
  const { tokens } = pruning;
  let rows: RowBatch = {
    positions: Int32Array.of(position),
    hidden: model.embedding.rows([row.tokenId]),
    projected: NONE,
  };
  let selected: Selected | null = null;
  tokens?.extend(position + 1);
  for (let layer = 0; layer < model.numLayers; layer++) {
    const numAlive: number = selected?.positions.length ?? position + 1;
    const selects = layer > 0 && tokens?.policy.revives === true;
    const budget = selects ? tokens.policy.budget(layer - 1, numAlive, position + 1) : null;
    if (tokens === null || budget === null) {
      const finish = layer === 0 ? 'not' : 'whole';
      const result = await pass(model, pruning, { layer, rows, finish, selected });
      rows = {
        positions: rows.positions,
        hidden: layer === 0 ? rows.hidden : result.hidden,
        projected: result.projected,
      };
    } else {
      const step: StageStep = { model, pruning, tokens, layer, budget, selected };
      const finished = await finishStage(step, rows);
      selected = select(step, position);
      const entering = exchange(step, finished, selected, row.reserveAux);
      if (entering === null) return null;
      const run = { layer, rows: entering, finish: 'not', open: true, phase: 'decode' } as const;
      const { projected } = await runTiles(model, pruning, run);
      rows = { ...entering, projected };
    }
    if (!row.reserve(layer, rows.positions.length)) return null;
    pruning.append(layer, rows.projected, rows.positions);
    if (layer > 0) pruning.decodeLayerDone(layer - 1, position);
  }
  return close(model, row, rows, selected);
}

type Pass = Pick<PartialRun, 'layer' | 'rows' | 'finish'> & { readonly selected: Selected | null };

/** Finishes and opens, and lets evictions hear what the row attends to, as a shared decode step does. */
async function pass(
  model: Model,
  pruning: SequencePruning,
  { selected, ...own }: Pass,
): Promise<PartialResult> {
  const run = { ...own, open: true, phase: 'decode', selected: selected?.flags ?? null } as const;
  const observes = own.finish !== 'not' && pruning.observesDecode;
  const result = await runTiles(model, pruning, { ...run, signal: observes ? 'lastQuery' : 'none' });
  if (observes)
    pruning.observe(own.layer - 1, result.fed, result.signal, { scores: true, importance: false });
  return result;
}

/** Rows of one run: a step that takes back much of a long prompt must not hold the scores of all its rows at once. */
const TILE_ROWS = 128;

/** The newest row is in the last tile: what that one read and heard stands for the whole. */
async function runTiles(model: Model, pruning: SequencePruning, run: PartialRun): Promise<PartialResult> {
  const results: PartialResult[] = [];
  for (const rows of tilesOf(run.rows, () => TILE_ROWS))
    results.push(await runRows(model, pruning, { ...run, rows }));
  const [first, ...others] = results;
  invariant(first !== undefined, 'a step has rows');
  const last = others.at(-1) ?? first;
  if (last === first) return first;
  return {
    ...last,
    hidden: joined(first.hidden, ...others.map(({ hidden }) => hidden)),
    projected: joined(first.projected, ...others.map(({ projected }) => projected)),
  };
}

interface StageStep {
  readonly model: Model;
  readonly pruning: SequencePruning;
  readonly tokens: TokenState;
  /** The layer that is opened. */
  readonly layer: number;
  readonly budget: number;
  readonly selected: Selected | null;
}

/** Finishes layer - 1 for the step's rows, and hears what the newest one attends to. */
async function finishStage(
  { model, pruning, tokens, layer, selected }: StageStep,
  rows: RowBatch,
): Promise<RowBatch> {
  const { fed, signal, hidden } = await runTiles(model, pruning, {
    layer,
    rows,
    finish: 'whole',
    open: false,
    phase: 'decode',
    signal: 'lastQuery',
    selected: selected?.flags ?? null,
  });
  for (const { positions } of fed) tokens.forget(positions);
  pruning.observe(layer - 1, fed, signal, { scores: false, importance: true });
  return { positions: rows.positions, hidden, projected: NONE };
}

function select({ tokens, layer, budget, model, selected }: StageStep, position: number): Selected {
  const alive = selected?.positions ?? Int32Array.from({ length: position + 1 }, (_, i) => i);
  const chosen = tokens.policy.select(
    {
      layer: layer - 1,
      numLayers: model.numLayers,
      positions: alive,
      importance: tokens.importanceOf(alive),
    },
    budget,
  );
  invariant(chosen.length <= budget && chosen.at(-1) === alive.length - 1, 'a selection keeps its budget');
  const positions = Int32Array.from(chosen, (i) => alive[i] ?? 0);
  const flags = new Uint8Array(position + 1);
  for (const kept of positions) flags[kept] = 1;
  return { positions, flags };
}

/**
 * Selected tokens that never entered this layer are fetched, to enter it with the others; rows that leave are saved.
 * @returns the rows that enter, or null if the sequence lost its cache
 */
function exchange(
  { pruning: { aux }, tokens, layer }: StageStep,
  finished: RowBatch,
  { positions, flags }: Selected,
  reserveAux: RowRoom['reserveAux'],
): RowBatch | null {
  const numRows = finished.positions.length;
  const going = Int32Array.from({ length: numRows }, (_, row) => row).filter(
    (row) => flags[finished.positions[row] ?? 0] === 1,
  );
  const leaving = takeRows([finished], complement(going, numRows));
  const revived = positions.filter((position) => aux.has(layer - 1, position));
  tokens.noteRevived(revived.length);
  // First, so that the others find their room.
  const hidden = aux.take(layer - 1, revived);
  if (!reserveAux(layer - 1, leaving.positions.length)) return null;
  aux.put(layer - 1, leaving.positions, leaving.hidden);
  return mergeRows([{ positions: revived, hidden, projected: NONE }, takeRows([finished], going)]);
}

/** Only the newest row goes through the last layer and the head. */
async function close(
  model: Model,
  { pruning, position }: SoloRow,
  rows: RowBatch,
  selected: Selected | null,
): Promise<Float32Array> {
  const newest = takeRows([rows], Int32Array.of(rows.positions.length - 1));
  const run = { layer: model.numLayers, rows: newest, finish: 'whole', selected } as const;
  const { hidden } = await pass(model, pruning, run);
  pruning.decodeLayerDone(model.numLayers - 1, position);
  pruning.decodeDone();
  return hidden;
}
