/** Makes a model write a given continuation, so that every policy can be scored on the same text while it decodes. */
import { invariant } from '../src/errors.ts';
import { GREEDY } from '../src/runtime/protocol.ts';
import type { SamplingParams } from '../src/runtime/protocol.ts';
import type { Work } from './driver.ts';

/** Far above the spread of any model's logits, so that the order of the biases alone decides. */
const BIAS_STEP = 1000;
/** Above every bias, so that a token is written once. */
const PENALTY = 1e6;
/** Most tokens of a continuation; biases stay exact enough in float32. */
const MAX_TOKENS = 32;

/**
 * Greedy sampling that writes exactly `ids`, which must differ: each token's bias is one step below the one before it,
 * and the presence penalty silences what is written. Reported log-probabilities are the model's own, before both.
 */
export function forcedSampling(ids: Int32Array): SamplingParams {
  invariant(ids.length <= MAX_TOKENS && new Set(ids).size === ids.length, 'forced tokens are few and differ');
  const logitBias = Array.from(ids, (id, i) => [id, BIAS_STEP * (ids.length - i)] as const);
  return { ...GREEDY, logitBias, presencePenalty: PENALTY, logprobs: 0 };
}

/** Cut a passage at `start`: what comes before is the prompt; what follows, up to the first repeated token, is forced. */
export function forcedContinuation(ids: Int32Array, start: number): Work {
  const seen = new Set<number>();
  while (seen.size < MAX_TOKENS) {
    const next = ids[start + seen.size];
    if (next === undefined || seen.has(next)) break;
    seen.add(next);
  }
  const forced = ids.slice(start, start + seen.size);
  invariant(forced.length > 0, `a cut at ${start} leaves something of ${ids.length} tokens`);
  return { promptIds: ids.slice(0, start), maxTokens: forced.length, sampling: forcedSampling(forced) };
}
