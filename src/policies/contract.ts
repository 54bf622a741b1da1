/**
 * What a pruning policy is. The policy says *which* tokens, entries or blocks survive, its budget *how many*; the engine
 * says *when*, and adds the protections that all share. Policies hold no state: what they need to know they are given.
 */
import type { z } from 'zod';

/** In the order in which replies and metrics name them. */
export const FAMILIES = ['tokens', 'kv', 'visual', 'layers'] as const;
export type Family = (typeof FAMILIES)[number];

/** What policies may know of a model before they run. */
export interface ModelShape {
  /** One item a layer; both 0 = a layer without attention. */
  readonly layers: readonly {
    readonly queryHeads: number;
    readonly kvHeads: number;
    readonly hasMlp: boolean;
  }[];
  /** DuoAttention gates in [0, 1], [layers][KV heads]: high = retrieval head. Null = the model has no pattern file. */
  readonly gates: readonly (readonly number[])[] | null;
}

/** Numbers a token that the engine computes when a policy asks; dense requests never pay for them. */
export type Signal =
  | 'last-query-attention'
  | 'observed-attention'
  | 'accumulated-attention'
  | 'repeated-attention'
  | 'head-magnitude'
  | 'key-norm'
  | 'value-norm'
  | 'key-similarity'
  | 'query-statistics'
  | 'head-pattern'
  | 'query';

// ---- tokens: which prompt tokens do deeper layers compute?

/** Tokens that have been computed up to a layer, ascending by position; the last one is the query that matters. */
export interface AliveTokens {
  readonly layer: number;
  readonly numLayers: number;
  /** [alive] */
  readonly positions: Int32Array;
  /**
   * [alive] attention from the observed rows, averaged over all query heads: `last` of the last row at this layer (for
   * tokens that passed this layer by: at the last one they entered), `all` summed over all rows and layers so far.
   */
  readonly importance: Float32Array;
}

export interface TokenPolicy {
  /** Tokens not selected leave for good, or pass by the next layer only. */
  readonly rest: 'leave' | 'pass';
  /** Rows whose attention counts; `none` = importance is all zeros. */
  readonly observes: 'last' | 'all' | 'none';
  /** Each decode step selects anew among all tokens, and pruned ones are computed again when they are needed. */
  readonly revives: boolean;
  /** How many of `numAlive` tokens enter layer `layer + 1`, `numSeen` entered layer 0; null = no cut after this layer. */
  budget(layer: number, numAlive: number, numSeen: number): number | null;
  /** Ascending indices of at most `budget` alive tokens; contains the last one. */
  select(tokens: AliveTokens, budget: number): Int32Array;
  /** Query heads that fall silent in deeper layers, too. */
  readonly heads?: {
    /** How many of all `numHeads` query heads layer `layer + 1` keeps; null = all that are left. */
    budget(layer: number, numHeads: number): number | null;
    /** Ascending indices by the L1 magnitude of each head's output, summed over rows and layers so far, [heads]. */
    select(magnitudes: Float32Array, budget: number): Int32Array;
  };
}

// ---- kv: which cache entries does each head keep or read?

/**
 * The entries of one KV head, ascending by position, when some of them are to be evicted; in a layer with a sliding
 * window only those that a later token can see: the others go in any case.
 */
export interface HeadEntries {
  readonly layer: number;
  readonly numLayers: number;
  readonly head: number;
  readonly length: number;
  /** [length] */
  readonly positions: Int32Array;
  /** The first so many and the last so many are kept whatever the policy says; both lie inside the budget. */
  readonly numSinks: number;
  readonly numRecent: number;
  /**
   * [length] probability that the query heads which read this KV head gave to each entry, summed over them and over the
   * observed rows (for `repeated`: the maximum over both).
   */
  attention(): Float32Array;
  /** [length] as {@link attention}, averaged over all query heads of the layer. */
  layerAttention(): Float32Array;
  /** [length] L2 norms. */
  keyNorms(): Float32Array;
  valueNorms(): Float32Array;
  /** [length] cosine of each key and the mean of all normalised keys. */
  keySimilarities(): Float32Array;
  /**
   * [length] mean over the query heads of softmax(k.mu / sqrt(d) + k'Sk / 2d), with mu and S the mean and covariance of
   * the queries so far, before RoPE, turned to the average of the next `numFuture` positions. The first `skip` entries
   * take no part and get 0.
   */
  expectedAttention(numFuture: number, skip: number): Float32Array;
}

/** A share of the entries seen, or a number; for each KV head. Exactly one is set. */
export interface Budget {
  /** (0, 1] */
  readonly keep?: number | undefined;
  readonly maxEntries?: number | undefined;
}

export interface EvictingPolicy {
  readonly kind: 'evict';
  readonly budget: Budget;
  /** Always kept, inside the budget. */
  readonly sink: number;
  readonly recent: number;
  /** Decoded tokens between two evictions; null = only after the prompt. */
  readonly interval: number | null;
  /** Rows of the prompt whose attention counts; `repeated`: those of the prompt read once more. */
  readonly observes: 'none' | 'last' | 'window' | 'all' | 'repeated';
  /** Rows of the observation window. */
  readonly window: number;
  /** Needs {@link HeadEntries.expectedAttention}. */
  readonly needsQueries: boolean;
  /** Ascending indices of at most `budget` entries, the protected ones among them. */
  select(entries: HeadEntries, budget: number): Int32Array;
  /** Budget of a layer whose heads hold `length` entries, when `average` is what each layer may keep on average. */
  layerBudget?(layer: number, numLayers: number, average: number, length: number): number;
  /** Budgets of all heads of the model together, in the order given, when each may keep `average` on average. */
  allot?(heads: readonly HeadEntries[], average: number): readonly number[];
}

/** Retrieval heads keep everything, streaming heads only sinks and the recent window, from the first tile on. */
export interface SplitPolicy {
  readonly kind: 'split';
  /** [layers][KV heads] true = streaming. */
  readonly streaming: readonly (readonly boolean[])[];
  /** A streaming head's query at position i sees the key at j iff j < sink or i - j <= recent. */
  readonly sink: number;
  readonly recent: number;
  /** `exact` = all heads see everything during the prompt, and are cut after it. */
  readonly prefill: 'streaming' | 'exact';
}

/** Evicts nothing; each decode step reads whole blocks of entries. */
export interface ReadingPolicy {
  readonly kind: 'read';
  readonly budget: Budget;
  /** Entries of a block. */
  readonly blockSize: number;
  /** The first so many layers read everything. */
  readonly denseLayers: number;
  /** Blocks that are always read: so many from the beginning, so many full ones from the end. */
  readonly firstBlocks: number;
  readonly lastBlocks: number;
  /** What stands for a full block of keys [blockSize, headDim], after RoPE. */
  summarise(keys: Float32Array, headDim: number): Float32Array;
  /** How promising a block is for one query [headDim], after RoPE. */
  score(query: Float32Array, summary: Float32Array): number;
}

export type KvPolicy = EvictingPolicy | SplitPolicy | ReadingPolicy;

// ---- layers: which attention or MLP blocks run?

/** A plan for the whole request. */
export interface LayerPolicy {
  /** [layers] false = the block is left out, the residual passes. */
  readonly attention: readonly boolean[];
  readonly mlp: readonly boolean[];
  /** [layers][query heads] factor on each query head's output; null = the layer is left as it is. */
  readonly headScale: readonly (readonly number[] | null)[];
}

// ---- modules

export interface Policies {
  tokens: TokenPolicy;
  kv: KvPolicy;
  visual: never;
  layers: LayerPolicy;
}

/** One method: its own file, and one line in index.ts. */
export interface PolicyModule<F extends Family = Family, Options = unknown> {
  /** File name and name on the wire. */
  readonly name: string;
  readonly family: F;
  /** One line for the table of policies. */
  readonly summary: string;
  /** arXiv number or address; null = a baseline. */
  readonly paper: string | null;
  /** Keys in snake_case; types, messages, docs and GET /v1/policies come from it. */
  readonly options: z.ZodType<Options>;
  /** What one may write as the family's value: run by contract tests, load tests and docs. */
  readonly examples: readonly unknown[];
  readonly needs: readonly Signal[];
  /** Why this model cannot run it; null = it can. */
  unsupported?(model: ModelShape): string | null;
  /** @throws AppError `invalid_request` whose param is the option's path, such as `stages[0].layer` */
  create(options: Options, model: ModelShape): Policies[F];
}

/** Keeps a module's option type while modules of all types stand in one list. */
export function definePolicy<F extends Family, Options>(
  module: PolicyModule<F, Options>,
): PolicyModule<F, Options> {
  return module;
}
