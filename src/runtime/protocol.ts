/** What the server asks of the engine and hears back: token ids and plain data, so that it crosses threads. */
import type { ErrorCode } from '../errors.ts';
import type { ModelShape, PruningChoice } from '../policies/index.ts';

/** How the next token is chosen. Every field is explicit; defaults belong to the routes. */
export interface SamplingParams {
  /** 0 = greedy. */
  temperature: number;
  /** (0, 1]; 1 = off. */
  topP: number;
  /** 0 = off. */
  topK: number;
  /** [0, 1]; 0 = off. */
  minP: number;
  /** > 0; 1 = off. Divides positive, multiplies negative logits of tokens seen in prompt or completion. */
  repetitionPenalty: number;
  /** Subtracted once from every token seen in the completion. */
  presencePenalty: number;
  /** Subtracted once per occurrence in the completion. */
  frequencyPenalty: number;
  /** [token id, bias] pairs. */
  logitBias: readonly (readonly [number, number])[];
  /** null = drawn by the engine. Choice i of a request samples with a stream derived from (seed, i). */
  seed: number | null;
  /** null = none, otherwise how many alternatives to report beside the chosen token. */
  logprobs: number | null;
}

/** Always the most probable token; everything else is off. */
export const GREEDY: SamplingParams = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
  seed: null,
  logprobs: null,
};

export interface GenerationRequest {
  readonly id: string;
  readonly promptIds: Int32Array;
  readonly numChoices: number;
  readonly sampling: SamplingParams;
  /** Most completion tokens per choice; 0 only together with `promptLogprobs`. */
  readonly maxTokens: number;
  /** End-of-sequence and stop ids are never sampled before this many tokens. */
  readonly minTokens: number;
  /** Ids that end a choice: the model's end-of-sequence ids (unless `ignore_eos`) and `stop_token_ids`. */
  readonly stopTokenIds: readonly number[];
  /** null = none, otherwise alternatives to report for every prompt token (for `echo` with `logprobs`). */
  readonly promptLogprobs: number | null;
  /** Lower runs first. */
  readonly priority: number;
  /** false = neither read nor write the prefix cache. */
  readonly cachePrompt: boolean;
  /** Report prefill progress events. */
  readonly reportProgress: boolean;
  /** What to leave out; null = nothing was asked. */
  readonly pruning: PruningChoice | null;
  /**
   * What completions must look like, null = anything: the JSON text of a structural tag of xgrammar,
   * `{"type":"structural_tag","format":{...}}`. Its formats: `grammar` (EBNF), `const_string`, `regex`, `any_text`, and of
   * these `sequence`, `or`, `tag`, `triggered_tags`, `tags_with_separator`; schemas come as grammars
   * (`text/json-schema/constraint`). A completion ends by itself, with reason `stop`, where nothing more may follow.
   */
  readonly constraint: string | null;
}

/** What was left out for one request, summed over its choices; a family that was not in force is null. */
export interface PruningReport {
  readonly tokens: TokensReport | null;
  readonly kv: KvReport | null;
  readonly layers: LayersReport | null;
}

export interface TokensReport {
  /** Prompt tokens that the policy saw. */
  readonly seen: number;
  /** One per cut, ascending by layer. */
  readonly stages: readonly { readonly layer: number; readonly seen: number; readonly kept: number }[];
  /** Prompt rows that entered a layer, summed over layers; `layers` x seen without pruning. */
  readonly rowsComputed: number;
  readonly layers: number;
  /** Tokens computed again in decoding, summed over steps and stages. */
  readonly revived: number;
  /** Of the auxiliary cache at the end. */
  readonly auxBytes: number;
}

export interface KvReport {
  /** Of the slots that are left at the end, */
  readonly bytes: number;
  /** when there were most, */
  readonly peakBytes: number;
  /** and what the sequence would hold unpruned. */
  readonly denseBytes: number;
  /** Slots, summed over layers and KV heads. */
  readonly entriesKept: number;
  readonly entriesSeen: number;
  /** Of policies that split heads, else null. */
  readonly retrievalHeads: number | null;
  readonly streamingHeads: number | null;
}

export interface LayersReport {
  /** Blocks left out. */
  readonly droppedAttention: number;
  readonly droppedMlp: number;
  /** Query heads scaled to zero. */
  readonly maskedHeads: number;
}

/** Log-probabilities (natural log, of the model's own distribution) of one token. */
export interface TokenLogprobs {
  readonly logprob: number;
  /** Alternatives, most probable first: [token id, logprob]. */
  readonly top: readonly (readonly [number, number])[];
}

export type FinishReason = 'stop' | 'length';

export interface Timings {
  queueMs: number;
  prefillMs: number;
  /** From arrival to the first token. */
  ttftMs: number;
  decodeMs: number;
}

export interface Usage {
  promptTokens: number;
  /** Prompt tokens whose KV came from the prefix cache. */
  cachedTokens: number;
  completionTokens: number;
}

/** Events of one request, in order; exactly one `done` or `error` is the last. */
export type EngineEvent =
  /** Its turn has come: the first prefill begins, with so many prompt tokens from the prefix cache. */
  | {
      readonly type: 'started';
      readonly cachedTokens: number;
      /** When it came out of the engine's thread, in ms of this thread's clock; absent before it did. */
      readonly arrivedMs?: number;
    }
  | {
      readonly type: 'progress';
      readonly total: number;
      readonly cached: number;
      readonly processed: number;
      readonly timeMs: number;
    }
  | { readonly type: 'prompt_logprobs'; readonly logprobs: readonly (TokenLogprobs | null)[] }
  | {
      readonly type: 'token';
      readonly choice: number;
      readonly tokenId: number;
      readonly logprobs: TokenLogprobs | null;
      /** As in `started`. */
      readonly arrivedMs?: number;
    }
  /** `stopTokenId` is the id that ended the choice (it was emitted as no `token`), or null. */
  | {
      readonly type: 'finished';
      readonly choice: number;
      readonly reason: FinishReason;
      readonly stopTokenId: number | null;
    }
  | {
      readonly type: 'done';
      readonly usage: Usage;
      readonly timings: Timings;
      /** Null unless the request asked for pruning. */
      readonly pruning: PruningReport | null;
    }
  | {
      readonly type: 'error';
      readonly code: ErrorCode;
      readonly message: string;
      readonly param: string | null;
    };

/** What the text and server layers need to know of the loaded model. */
export interface ModelInfo {
  readonly contextLength: number;
  readonly vocabSize: number;
  /** What pruning policies need to know. */
  readonly shape: ModelShape;
}

/**
 * What running sequences hold in heads that nothing prunes, in those of a split, and in those with missing entries;
 * auxiliary caches count as `pruned`.
 */
export interface KvBytesByKind {
  readonly dense: number;
  readonly retrieval: number;
  readonly streaming: number;
  readonly pruned: number;
}

/** State of the engine for `/ready`, logs, metrics and tests. Bytes are what the KV pool counts. */
export interface EngineStats {
  /** Sequences that have a place and a cache, those that wait for them, and those parked because nobody reads them. */
  readonly running: number;
  readonly waiting: number;
  readonly parked: number;
  /** Of running sequences. */
  readonly kvBytes: number;
  readonly kvBytesByKind: KvBytesByKind;
  readonly prefixCacheBytes: number;
  readonly kvLimitBytes: number;
  /** Tokens of one unpruned sequence that the limit holds. */
  readonly kvLimitTokens: number;
  readonly preemptions: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly generatedTokens: number;
}

/** The engine as the server sees it, whichever thread it runs in. */
export interface Engine {
  readonly model: ModelInfo;
  /** False while the engine restarts after a crash; requests then get the error `model_loading`. */
  readonly isReady: boolean;
  /**
   * Starts a request; events arrive through the iterator. Leaving the iterator early, or aborting the signal,
   * cancels the request and frees everything it holds within one engine turn. A reader that falls behind pauses the
   * request, so that few events lie unread.
   * @throws AppError `kv_memory_exceeded`, through the first `next()`.
   */
  generate(request: GenerationRequest, signal?: AbortSignal): AsyncIterable<EngineEvent>;
  /** Ends one choice of a running request early (a stop string was found); its `finished` has reason `stop`. */
  stopChoice(requestId: string, choice: number): void;
  stats(): Promise<EngineStats>;
  /** The newest state that is known without asking; totals never fall. Null before the engine told one. */
  readonly lastStats: EngineStats | null;
  close(): Promise<void>;
}
