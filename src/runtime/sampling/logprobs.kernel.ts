/** Log-probabilities of the model's own distribution, for sampled tokens and for scoring a prompt. */
import type { TokenLogprobs } from '../protocol.ts';
import { argmax } from './argmax.kernel.ts';
import { expNegative } from './exp.kernel.ts';

/**
 * log softmax of `logits` [vocabSize], summed in float64: at `tokenId`, and at the `numTop` most probable tokens
 * (equals by ascending id; fewer when fewer have any probability).
 * @throws AppError `internal` when the logits hold NaN or every token is masked.
 */
export function tokenLogprobs(logits: Float32Array, tokenId: number, numTop: number): TokenLogprobs {
  const max = logits[argmax(logits)]!;
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += expNegative(max - logits[i]!);
  const logTotal = Math.log(total);
  const logprobOf = (id: number): number => logits[id]! - max - logTotal;
  return {
    logprob: logprobOf(tokenId),
    top: largestIds(logits, numTop).map((id) => [id, logprobOf(id)] as const),
  };
}

/** Ids of the `count` largest logits above -Infinity, largest first. For few: newcomers are inserted into a sorted list. */
function largestIds(logits: Float32Array, count: number): number[] {
  const ids: number[] = [];
  if (count === 0) return ids;
  // Of those in the list, once it is full.
  let smallest = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (logit <= smallest) continue;
    let place = Math.min(ids.length, count - 1);
    for (; place > 0 && logits[ids[place - 1]!]! < logit; place--) ids[place] = ids[place - 1]!;
    ids[place] = id;
    if (ids.length === count) smallest = logits[ids[count - 1]!]!;
  }
  return ids;
}
