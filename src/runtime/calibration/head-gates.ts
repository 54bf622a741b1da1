/** A DuoAttention pattern without training: gates of all KV heads from a calibration text. */
import type { AttentionShape } from '../../graph/architecture.ts';
import type { Model } from '../model.ts';
import { addUnrotated, AREA_POSITIONS, attentionArea } from './head-area.kernel.ts';
import { nextLayer, openPassage, type PassageRows } from './passage.ts';

const WHOLE = { attention: true, mlp: true };

/**
 * A layer without RoPE attends alike near and far: its mean key scores the same at every position, which says nothing
 * about its heads. They stay retrieval heads, so that only what is known to look near is cut.
 */
const GATE_WITHOUT_ROPE = 1;

/** Gates of one layer's KV heads over one passage: each the mean over the query heads that read it. */
function gatesOf(model: Model, rows: PassageRows, shape: AttentionShape): number[] {
  const { queryHeads, kvHeads, headDim } = shape;
  const sums = new Float64Array((queryHeads + kvHeads) * headDim);
  addUnrotated(sums, rows.projected, shape, model.rope.range(0, rows.numRows));
  const means = sums.map((sum) => sum / rows.numRows);
  const head = (index: number): Float64Array => means.subarray(index * headDim, (index + 1) * headDim);
  const positions = model.rope.range(0, AREA_POSITIONS);
  const group = queryHeads / kvHeads;
  return Array.from({ length: kvHeads }, (_, j) => {
    const areas = Array.from({ length: group }, (_query, i) =>
      attentionArea(head(j * group + i), head(queryHeads + j), positions),
    );
    return areas.reduce((a, b) => a + b, 0) / group;
  });
}

async function passageGates(model: Model, tokenIds: Int32Array): Promise<number[][]> {
  const gates: number[][] = [];
  let rows = await openPassage(model, tokenIds);
  for (const [index, { attention, rope }] of model.architecture.layers.entries()) {
    if (attention === null) gates.push([]);
    else if (!rope) gates.push(Array<number>(attention.kvHeads).fill(GATE_WITHOUT_ROPE));
    else gates.push(gatesOf(model, rows, attention));
    if (index + 1 < model.numLayers) rows = await nextLayer(model, rows, WHOLE);
  }
  return gates;
}

/** The mean over passages of what `gatesOf` finds for each, one after the other. */
export async function averageGates(
  passages: readonly Int32Array[],
  gatesOf: (passage: Int32Array) => Promise<number[][]>,
  onPassage: (done: number) => void = () => undefined,
): Promise<number[][]> {
  const all: number[][][] = [];
  for (const passage of passages) {
    all.push(await gatesOf(passage));
    onPassage(all.length);
  }
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  return (all[0] ?? []).map((row, layer) =>
    row.map((_, head) => mean(all.map((gates) => gates[layer]?.[head] ?? 0))),
  );
}

/** Gates [layers][KV heads] in [0, 1], averaged over passages of token ids; none for a layer without attention. */
export function computeGates(
  model: Model,
  passages: readonly Int32Array[],
  onPassage?: (done: number) => void,
): Promise<number[][]> {
  return averageGates(passages, (passage) => passageGates(model, passage), onPassage);
}
