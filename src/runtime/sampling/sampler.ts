/** Chooses the tokens of one choice: logits in, token id (and log-probabilities) out. */
import { invariant } from '../../errors.ts';
import type { ConstraintMatcher } from '../constraint/matcher.ts';
import type { SamplingParams, TokenLogprobs } from '../protocol.ts';
import { argmax } from './argmax.kernel.ts';
import { drawToken, type SamplingWorkspace } from './distribution.kernel.ts';
import { tokenLogprobs } from './logprobs.kernel.ts';
import {
  biasLogits,
  forbidEarlyStop,
  type LogitsProcessor,
  penalize,
  type TokenHistory,
} from './processors.kernel.ts';
import { createUniforms } from './random.ts';
import { warp } from './warp.kernel.ts';

export interface SamplerContext {
  /** Index of the choice within its request. */
  readonly choice: number;
  /** Every id lies below `workspace.vocabSize`. */
  readonly promptIds: Int32Array;
  readonly minTokens: number;
  readonly stopTokenIds: readonly number[];
  /** Shared by all samplers of the thread. */
  readonly workspace: SamplingWorkspace;
  /** Becomes the sampler's own; null = any token may come. */
  readonly constraint: ConstraintMatcher | null;
}

export interface Sample {
  readonly tokenId: number;
  /** null unless asked for; of the model's own distribution, before bias, penalties and temperature. */
  readonly logprobs: TokenLogprobs | null;
}

export interface Sampler {
  /**
   * Chooses the next token. `logits` [vocabSize] are changed in place. Draws one random number, none when greedy.
   * @returns `complete` if a constrained text is, and nothing may follow
   * @throws AppError `internal` when the logits hold NaN or every token is masked; as the constraint's `mask`
   */
  sample(logits: Float32Array): Sample | 'complete';
  /** Appends a token to the completion: penalties and the minimum length count it from now on. */
  accept(tokenId: number): void;
  /** Gives back what the constraint holds; nothing else may be called afterwards. */
  free(): void;
}

export function createSampler(params: SamplingParams, context: SamplerContext): Sampler {
  const { workspace, constraint } = context;
  const uniform = createUniforms(params.seed, context.choice);
  const countsTokens =
    params.repetitionPenalty !== 1 || params.presencePenalty !== 0 || params.frequencyPenalty !== 0;
  const history: TokenHistory = { numTokens: 0, occurrences: new Map() };
  if (params.repetitionPenalty !== 1) for (const id of context.promptIds) history.occurrences.set(id, 0);

  const processors: LogitsProcessor[] = [];
  if (params.logitBias.length > 0) processors.push(biasLogits(params.logitBias, workspace.vocabSize));
  if (countsTokens) processors.push(penalize(params));
  if (context.minTokens > 0) processors.push(forbidEarlyStop(context.minTokens, context.stopTokenIds));

  const changesLogits = processors.length > 0 || constraint !== null;

  return {
    sample(logits) {
      invariant(logits.length === workspace.vocabSize, `${workspace.vocabSize} logits, got ${logits.length}`);
      const ownLogits = changesLogits && params.logprobs !== null ? logits.slice() : logits;
      for (const process of processors) process(logits, history);
      if (constraint?.mask(logits) === false) return 'complete';
      const tokenId =
        params.temperature === 0 ? argmax(logits) : drawToken(warp(logits, params, workspace), uniform());
      return {
        tokenId,
        logprobs: params.logprobs === null ? null : tokenLogprobs(ownLogits, tokenId, params.logprobs),
      };
    },
    accept(tokenId) {
      history.numTokens++;
      constraint?.accept(tokenId);
      if (countsTokens) history.occurrences.set(tokenId, (history.occurrences.get(tokenId) ?? 0) + 1);
    },
    free() {
      constraint?.free();
    },
  };
}
