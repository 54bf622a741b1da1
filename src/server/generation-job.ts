/** What a route asks of the generation module, and the events it hears back. */
import type { PruningChoice } from '../policies/index.ts';
import type { PruningReport, SamplingParams, Timings, TokenLogprobs, Usage } from '../runtime/protocol.ts';
import type { ReplyFormat } from './choice-parts.ts';
import type { Released, ReplyReason } from './choice-text.ts';

export interface GenerationJob {
  /** Unique in this process; engine requests are named after it. */
  readonly id: string;
  readonly prompts: readonly { readonly ids: Int32Array; readonly maxTokens: number }[];
  readonly numChoices: number;
  readonly sampling: SamplingParams;
  readonly minTokens: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly promptLogprobs: number | null;
  readonly priority: number;
  readonly cachePrompt: boolean;
  readonly reportProgress: boolean;
  /** Time from now on until the job fails with `timeout`; null = none. */
  readonly maxTimeMs: number | null;
  /** Null = nothing was asked. */
  readonly pruning: PruningChoice | null;
  /** Of an engine request. */
  readonly constraint: string | null;
  readonly replyFormat: ReplyFormat;
}

export type PromptLogprobs = readonly (TokenLogprobs | null)[];

/** Choice i of prompt p has index `p * numChoices + i`. One `end` is the last event. */
export type GenerationEvent =
  | {
      readonly type: 'progress';
      readonly total: number;
      readonly cached: number;
      readonly processed: number;
      readonly timeMs: number;
    }
  /** A prompt's prefill begins: from now on the request is not refused any more. */
  | {
      readonly type: 'prefill';
      readonly promptIndex: number;
      /** Its tokens that were kept from an earlier request. */
      readonly cachedTokens: number;
      /** When the engine said so, in ms of this thread's clock. */
      readonly arrivedMs: number;
    }
  /** The choice's first token or its end is there; nothing of it came before. */
  | { readonly type: 'start'; readonly choice: number; readonly promptLogprobs: PromptLogprobs | null }
  | ({ readonly type: 'delta'; readonly choice: number } & Released)
  | {
      readonly type: 'finish';
      readonly choice: number;
      readonly reason: ReplyReason;
      readonly isLast: boolean;
    }
  | {
      readonly type: 'end';
      readonly usage: Usage;
      readonly timings: Timings;
      readonly pruning: PruningReport | null;
    };

/** The client left: nobody reads a reply. */
export class ClientGoneError extends Error {
  override name = 'ClientGoneError';
}
