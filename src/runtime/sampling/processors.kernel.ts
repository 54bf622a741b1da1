/** What changes logits before a token is chosen: bias, penalties and the minimum length, in this order. */
import { invariant } from '../../errors.ts';
import type { SamplingParams } from '../protocol.ts';

/** What penalties and the minimum length need to know of a choice. */
export interface TokenHistory {
  /** Tokens of the completion so far. */
  numTokens: number;
  /** Token id -> occurrences in the completion; tokens of the prompt alone have 0. */
  readonly occurrences: Map<number, number>;
}

/** Changes `logits` [vocabSize] in place. */
export type LogitsProcessor = (logits: Float32Array, history: TokenHistory) => void;

/** Adds each bias to its token's logit; ids lie below `vocabSize`. */
export function biasLogits(logitBias: SamplingParams['logitBias'], vocabSize: number): LogitsProcessor {
  for (const [id] of logitBias)
    invariant(id >= 0 && id < vocabSize, `logit bias for token ${id} of a vocabulary of ${vocabSize}`);
  return (logits) => {
    for (const [id, bias] of logitBias) logits[id] = logits[id]! + bias;
  };
}

export type Penalties = Pick<SamplingParams, 'repetitionPenalty' | 'presencePenalty' | 'frequencyPenalty'>;

/** Penalties as vLLM defines them: repetition for all of the history, the other two for the completion alone. */
export function penalize({
  repetitionPenalty,
  presencePenalty,
  frequencyPenalty,
}: Penalties): LogitsProcessor {
  return (logits, { occurrences }) => {
    for (const [id, count] of occurrences) {
      const logit = logits[id]!;
      const scaled = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
      logits[id] = count === 0 ? scaled : scaled - count * frequencyPenalty - presencePenalty;
    }
  };
}

/** Masks the ids that end a choice until it has `minTokens` tokens. */
export function forbidEarlyStop(minTokens: number, stopTokenIds: readonly number[]): LogitsProcessor {
  return (logits, { numTokens }) => {
    if (numTokens >= minTokens) return;
    for (const id of stopTokenIds) logits[id] = -Infinity;
  };
}
