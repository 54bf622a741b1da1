/** A probability distribution over tokens, the scratch memory it lives in, and how a token is drawn from it. */
import { invariant } from '../../errors.ts';

/** Tokens outside `ids` have probability 0; so may some inside (masked ones). */
export interface Distribution {
  /** [support], ascending. */
  readonly ids: Int32Array;
  /** [support], sums to 1. */
  readonly probs: Float64Array;
}

/** Memory for one distribution at a time, shared by all samplers of a thread: about 28 bytes per token of the vocabulary. */
export interface SamplingWorkspace {
  readonly vocabSize: number;
  /** [vocabSize], 0, 1, 2, ...: the `ids` of a distribution over everything. Never written. */
  readonly allIds: Int32Array;
  /** [vocabSize] */
  readonly ids: Int32Array;
  /** [vocabSize] */
  readonly probs: Float64Array;
  /** [vocabSize], for what one selection needs. */
  readonly scratch: Float64Array;
}

export function createSamplingWorkspace(vocabSize: number): SamplingWorkspace {
  return {
    vocabSize,
    allIds: Int32Array.from({ length: vocabSize }, (_, id) => id),
    ids: new Int32Array(vocabSize),
    probs: new Float64Array(vocabSize),
    scratch: new Float64Array(vocabSize),
  };
}

/**
 * Inverse of the cumulative distribution: the first token, by id, whose cumulative probability exceeds `uniform` in [0, 1).
 * The order is fixed so that equal random numbers choose equal tokens.
 */
export function drawToken({ ids, probs }: Distribution, uniform: number): number {
  let cumulative = 0;
  for (let i = 0; i < probs.length; i++) {
    cumulative += probs[i]!;
    if (cumulative > uniform) return ids[i]!;
  }
  // Rounding left the sum a hair under 1 and the draw fell into the gap: it belongs to the last token that has any probability.
  const last = probs.findLastIndex((prob) => prob > 0);
  invariant(last >= 0, 'a distribution has at least one token');
  return ids[last]!;
}
