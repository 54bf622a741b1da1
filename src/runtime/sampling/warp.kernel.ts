/** Logits to the distribution that is sampled: temperature, top-k, top-p and min-p, without sorting the vocabulary. */
import type { SamplingParams } from '../protocol.ts';
import { argmax } from './argmax.kernel.ts';
import { findCutoff, type Measure } from './cutoff.kernel.ts';
import type { Distribution, SamplingWorkspace } from './distribution.kernel.ts';
import { expNegative } from './exp.kernel.ts';

export type WarpParams = Pick<SamplingParams, 'temperature' | 'topK' | 'topP' | 'minP'>;

/** Tokens per block whose maximum is taken to narrow down the k largest. */
const BLOCK = 64;

/** Some tokens and their logits, ids ascending. */
interface Candidates {
  readonly ids: Int32Array;
  readonly logits: Float32Array;
}

/**
 * The distribution that `params` (temperature > 0) make of `logits` [vocabSize]; the logits are only read.
 * Steps and their order are those of Hugging Face transformers; among equally probable tokens at a cut, the lower ids stay.
 * The result is a view into `workspace`, valid until its next use: copy what must live longer.
 * @throws AppError `internal` when the logits hold NaN or every token is masked.
 */
export function warp(logits: Float32Array, params: WarpParams, workspace: SamplingWorkspace): Distribution {
  const max = logits[argmax(logits)]!;
  const { temperature, topK, topP, minP } = params;
  // The temperature changes no order, so top-k may go first and leave the rest of the vocabulary out of the softmax.
  const narrowed = topK > 0 && topK < logits.length;
  const candidates = narrowed ? keepTopK(logits, topK, workspace) : { ids: workspace.allIds, logits };
  let distribution = softmax(candidates, max, temperature, workspace);
  if (topP < 1) distribution = keepTopP(distribution, topP, workspace);
  if (minP > 0) distribution = keepMinP(distribution, minP, workspace);
  return distribution;
}

/** The `k` largest logits. */
function keepTopK(logits: Float32Array, k: number, workspace: SamplingWorkspace): Candidates {
  const { ids, probs: kept, scratch } = workspace;
  const floor = floorOfTopK(logits, k, scratch);
  let count = 0;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (logit >= floor) {
      ids[count] = id;
      kept[count++] = logit;
    }
  }
  const length = keepLargest(ids.subarray(0, count), kept.subarray(0, count), k, 'count', workspace);
  return { ids: ids.subarray(0, length), logits: new Float32Array(kept.subarray(0, length)) };
}

/** A lower bound of the k-th largest logit: k blocks have a maximum of at least the k-th largest block maximum. */
function floorOfTopK(logits: Float32Array, k: number, scratch: Float64Array): number {
  const numBlocks = Math.ceil(logits.length / BLOCK);
  if (k > numBlocks) return -Infinity;
  for (let block = 0; block < numBlocks; block++) {
    const end = Math.min(logits.length, (block + 1) * BLOCK);
    let max = -Infinity;
    for (let id = block * BLOCK; id < end; id++) if (logits[id]! > max) max = logits[id]!;
    scratch[block] = max + 0; // -0 becomes 0
  }
  return findCutoff(scratch.subarray(0, numBlocks), k, 'count').value;
}

/** softmax(logits / temperature); `max` is the largest logit. */
function softmax(
  { ids, logits }: Candidates,
  max: number,
  temperature: number,
  workspace: SamplingWorkspace,
): Distribution {
  const probs = workspace.probs.subarray(0, ids.length);
  // 1 / 1e-320 is Infinity, and 0 * Infinity NaN; with the largest double in its place the largest logit still takes all.
  const scale = Math.min(1 / temperature, Number.MAX_VALUE);
  let total = 0;
  for (let i = 0; i < probs.length; i++) {
    const weight = expNegative((max - logits[i]!) * scale);
    probs[i] = weight;
    total += weight;
  }
  normalize(probs, total);
  return { ids, probs };
}

/** Nucleus sampling, https://arxiv.org/abs/1904.09751: the fewest tokens, most probable first, that together have at least `topP`. */
function keepTopP({ ids, probs }: Distribution, topP: number, workspace: SamplingWorkspace): Distribution {
  // All tokens below this floor together have less than 1 - topP, so none of them is needed.
  const likely = keepAtLeast(ids, probs, (1 - topP) / probs.length, workspace);
  const length = keepLargest(
    workspace.ids.subarray(0, likely),
    probs.subarray(0, likely),
    topP,
    'sum',
    workspace,
  );
  return renormalized(length, workspace);
}

/** Min-p sampling, https://arxiv.org/abs/2407.01082: the tokens at least `minP` times as probable as the most probable one. */
function keepMinP({ ids, probs }: Distribution, minP: number, workspace: SamplingWorkspace): Distribution {
  let max = 0;
  for (let i = 0; i < probs.length; i++) if (probs[i]! > max) max = probs[i]!;
  return renormalized(keepAtLeast(ids, probs, minP * max, workspace), workspace);
}

/** Moves the entries with a value of at least `floor` to the front of `workspace.ids` and `workspace.probs`; returns their number. */
function keepAtLeast(
  ids: Int32Array,
  values: Float64Array,
  floor: number,
  workspace: SamplingWorkspace,
): number {
  let count = 0;
  for (let i = 0; i < values.length; i++) {
    if (values[i]! >= floor) {
      workspace.ids[count] = ids[i]!;
      workspace.probs[count++] = values[i]!;
    }
  }
  return count;
}

/**
 * Moves the fewest entries, largest value first, whose mass reaches `target` to the front of `workspace.ids` and
 * `workspace.probs`, in their old order; returns their number. Among equal values at the cut, the first ones stay.
 */
function keepLargest(
  ids: Int32Array,
  values: Float64Array,
  target: number,
  measure: Measure,
  workspace: SamplingWorkspace,
): number {
  const scratch = workspace.scratch.subarray(0, values.length);
  for (let i = 0; i < values.length; i++) scratch[i] = values[i]! + 0; // -0 becomes 0
  const cutoff = findCutoff(scratch, target, measure);
  let missing = target - cutoff.massAbove;
  let count = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value < cutoff.value) continue;
    if (value === cutoff.value) {
      if (missing <= 0) continue;
      missing -= measure === 'sum' ? value : 1;
    }
    workspace.ids[count] = ids[i]!;
    workspace.probs[count++] = value;
  }
  return count;
}

function renormalized(length: number, workspace: SamplingWorkspace): Distribution {
  const probs = workspace.probs.subarray(0, length);
  let total = 0;
  for (let i = 0; i < probs.length; i++) total += probs[i]!;
  normalize(probs, total);
  return { ids: workspace.ids.subarray(0, length), probs };
}

function normalize(probs: Float64Array, total: number): void {
  const scale = 1 / total;
  for (let i = 0; i < probs.length; i++) probs[i] = probs[i]! * scale;
}
