/** A passage of text on its way through the model, one layer at a time: every step can be taken again another way. */
import { invariant } from '../../errors.ts';
import { type AttentionFeed, type LayerRun, ALL_PARTS, type RunParts } from '../../graph/session.ts';
import type { Model } from '../model.ts';

/** Added to the score of an entry that a row must not see. */
const HIDDEN = -1e30;

/** All rows of a passage at the entry of a layer. */
export interface PassageRows {
  readonly layer: number;
  readonly numRows: number;
  /** [numRows, hiddenSize] */
  readonly hidden: Float32Array;
  /** Query, key and value, [numRows, (queryHeads + 2 kvHeads) * headDim]; empty without attention. */
  readonly projected: Float32Array;
}

/** Which blocks of a layer run. */
export interface Blocks {
  readonly attention: boolean;
  readonly mlp: boolean;
}

/** The session keeps what it made for each object, so there is one for each combination. */
const PARTS: readonly RunParts[] = [false, true].flatMap((attention) =>
  [false, true].flatMap((mlp) =>
    [false, true].map((open) => (attention && mlp && open ? ALL_PARTS : { attention, mlp, open })),
  ),
);

function partsOf({ attention, mlp }: Blocks, open: boolean): RunParts {
  const parts = PARTS.find((p) => p.attention === attention && p.mlp === mlp && p.open === open);
  invariant(parts !== undefined, 'all combinations of parts are listed');
  return parts;
}

/** Columns [column, column + width) of rows [0, numRows) of an array whose rows are `stride` long. */
function columns(data: Float32Array, stride: number, column: number, width: number, numRows: number) {
  const picked = new Float32Array(numRows * width);
  for (let row = 0; row < numRows; row++) {
    const start = row * stride + column;
    picked.set(data.subarray(start, start + width), row * width);
  }
  return picked;
}

/** [to - from, to]: which entries before `to` the rows from..to-1 must not see. */
function maskOf(from: number, to: number, window: number | null): Float32Array {
  const mask = new Float32Array((to - from) * to);
  for (let position = from; position < to; position++) {
    const start = (position - from) * to;
    mask.fill(HIDDEN, start + position + 1, start + to);
    if (window !== null) mask.fill(HIDDEN, start, start + Math.max(0, position - window + 1));
  }
  return mask;
}

/** The attention of rows from..to-1 over all rows before them and themselves. */
function feedOf(model: Model, rows: PassageRows, from: number, to: number, isOn: boolean): AttentionFeed {
  const layer = model.architecture.layers[rows.layer];
  const shape = layer?.attention ?? null;
  if (shape === null) return { kind: 'none' };
  if (!isOn) return { kind: 'skip', shape };
  const { queryHeads, kvHeads, headDim } = shape;
  const stride = rows.projected.length / rows.numRows;
  const mask = maskOf(from, to, layer?.window ?? null);
  const heads = Array.from({ length: kvHeads }, (_, j) => {
    const pick = (head: number) => columns(rows.projected, stride, head * headDim, headDim, to);
    return { keys: pick(queryHeads + j), values: pick(queryHeads + kvHeads + j), mask };
  });
  return { kind: 'tile', shape, heads };
}

function runOf(
  model: Model,
  rows: PassageRows,
  from: number,
  to: number,
  blocks: Blocks,
  open: boolean,
): LayerRun {
  const cut = (data: Float32Array): Float32Array => {
    const width = data.length / rows.numRows;
    return data.subarray(from * width, to * width);
  };
  const attention = feedOf(model, rows, from, to, blocks.attention);
  const layer = rows.layer + 1;
  return {
    layer,
    numRows: to - from,
    hidden: cut(rows.hidden),
    projected: attention.kind === 'tile' ? cut(rows.projected) : null,
    rope: layer === model.numLayers ? null : model.rope.range(from, to),
    attention,
    signal: 'none',
    parts: partsOf(blocks, open),
  };
}

/** The rows of a text at the entry of the first layer. */
export async function openPassage(model: Model, tokenIds: Int32Array): Promise<PassageRows> {
  const numRows = tokenIds.length;
  invariant(numRows > 0, 'a passage has at least one token');
  const { hidden, projected } = await model.session.run({
    layer: 0,
    numRows,
    hidden: model.embedding.rows(tokenIds),
    projected: null,
    rope: model.rope.range(0, numRows),
    attention: { kind: 'none' },
    signal: 'none',
  });
  return { layer: 0, numRows, hidden, projected };
}

/** The same rows at the entry of the next layer; not for the last one. */
export async function nextLayer(model: Model, rows: PassageRows, blocks: Blocks): Promise<PassageRows> {
  const { numRows, layer } = rows;
  const { hidden, projected } = await model.session.run(runOf(model, rows, 0, numRows, blocks, true));
  return { layer: layer + 1, numRows, hidden, projected };
}

/** The hidden rows behind some blocks of their layer, [numRows, hiddenSize]. */
export async function rowsAfter(model: Model, rows: PassageRows, blocks: Blocks): Promise<Float32Array> {
  return (await model.session.run(runOf(model, rows, 0, rows.numRows, blocks, false))).hidden;
}

/** Logits [to - from, vocabSize] of rows from..to-1 that are at the entry of the last layer. */
export async function passageLogits(
  model: Model,
  rows: PassageRows,
  from: number,
  to: number,
  blocks: Blocks,
): Promise<Float32Array> {
  invariant(rows.layer === model.numLayers - 1, `logits of rows at layer ${rows.layer}`);
  return (await model.session.run(runOf(model, rows, from, to, blocks, true))).hidden;
}
