/** The engine's live records: a request, and one sequence for each of its choices. */
import type { SequenceCache } from '../kv/sequence-cache.ts';
import type { ActivePolicies } from '../policies/index.ts';
import type {
  EngineEvent,
  FinishReason,
  GenerationRequest,
  PruningReport,
  TokenLogprobs,
} from './protocol.ts';
import { sumPruning } from './pruning/report.ts';
import type { SequencePruning } from './pruning/sequence-pruning.ts';
import type { Sampler } from './sampling/sampler.ts';

/** One choice: its tokens, what of them is computed, and its cache. */
export class Sequence {
  readonly request: LiveRequest;
  readonly choice: number;
  readonly sampler: Sampler;
  /** Positions computed so far = entries in every head of an unpruned cache. */
  numComputed = 0;
  /** Null while the sequence waits: before its first prefill, or preempted. */
  cache: SequenceCache | null = null;
  /** The cache's pruning; null = none is in force, or no cache. */
  pruning: SequencePruning | null = null;
  finished = false;
  readonly #ids: Int32Array;
  #length: number;

  constructor(request: LiveRequest, choice: number, sampler: Sampler, maxTokens: number) {
    this.request = request;
    this.choice = choice;
    this.sampler = sampler;
    const prompt = request.input.promptIds;
    this.#ids = new Int32Array(prompt.length + maxTokens);
    this.#ids.set(prompt);
    this.#length = prompt.length;
  }

  /** Prompt and completion so far. */
  get ids(): Int32Array {
    return this.#ids.subarray(0, this.#length);
  }

  get numTokens(): number {
    return this.#length;
  }

  get numGenerated(): number {
    return this.#length - this.request.input.promptIds.length;
  }

  /** Tokens whose K and V are not computed. */
  get numOwed(): number {
    return this.#length - this.numComputed;
  }

  /**
   * Where a prefill of this sequence ends. Preempted and computed again, tokens that were generated count as prompt; not
   * so under pruning, which treats the two differently: they are decoded once more.
   */
  get prefillEnd(): number {
    return this.request.policies === null ? this.#length : this.request.input.promptIds.length;
  }

  /** Owes only tokens that it has sampled. A prompt may owe one token, too, but ends in another way. */
  get isDecoding(): boolean {
    if (this.numGenerated === 0) return false;
    return this.request.policies === null ? this.numOwed === 1 : this.numComputed >= this.prefillEnd;
  }

  /** The first token that is not computed. */
  get nextId(): number {
    return this.#ids[this.numComputed] ?? 0;
  }

  push(tokenId: number): void {
    this.#ids[this.#length++] = tokenId;
    this.sampler.accept(tokenId);
  }

  /** Gives the memory back; what was computed has to be computed again. */
  releaseCache(): void {
    this.cache?.free();
    this.cache = null;
    this.pruning = null;
    this.numComputed = 0;
  }
}

export class LiveRequest {
  readonly input: GenerationRequest;
  /** What every sequence of it leaves out; null = nothing. */
  readonly policies: ActivePolicies | null;
  readonly sequences: Sequence[] = [];
  /** Order of arrival. */
  readonly order: number;
  readonly #emit: (event: EngineEvent) => void;
  readonly #arrivedMs = performance.now();
  #startedMs: number | null = null;
  #firstTokenMs: number | null = null;
  #reported = -1;
  cachedTokens = 0;
  /** One per prompt token once scored; null for the first, which nothing predicts. */
  promptLogprobs: (TokenLogprobs | null)[] = [];
  closed = false;
  /** Its reader is behind: nothing of it is computed until that has caught up. */
  isPaused = false;
  #pruning: PruningReport | null = null;

  constructor(
    input: GenerationRequest,
    policies: ActivePolicies | null,
    order: number,
    emit: (event: EngineEvent) => void,
  ) {
    this.input = input;
    this.policies = policies;
    this.order = order;
    this.#emit = emit;
  }

  /** A prefill begins, with `cachedTokens` from the prefix cache. False if it is not the first one. */
  start(cachedTokens: number): boolean {
    if (this.#startedMs !== null) return false;
    this.#startedMs = performance.now();
    this.cachedTokens = cachedTokens;
    this.#emit({ type: 'started', cachedTokens });
    return true;
  }

  /** Reports only what is new: a prompt that was preempted catches up in silence. */
  progress(processed: number): void {
    if (!this.input.reportProgress || this.isPrefilled || processed <= this.#reported) return;
    this.#reported = processed;
    const total = this.input.promptIds.length;
    const timeMs = performance.now() - (this.#startedMs ?? this.#arrivedMs);
    this.#emit({ type: 'progress', total, cached: this.cachedTokens, processed, timeMs });
  }

  get isPrefilled(): boolean {
    return this.#firstTokenMs !== null;
  }

  /** The prompt is computed: the first token, or the end of a request that wants none. False if it was before. */
  prefilled(): boolean {
    if (this.#firstTokenMs !== null) return false;
    this.#firstTokenMs = performance.now();
    if (this.input.promptLogprobs !== null)
      this.#emit({ type: 'prompt_logprobs', logprobs: this.promptLogprobs });
    return true;
  }

  /** The choice that waits for the prompt to be computed, on behalf of all. */
  get leader(): Sequence | undefined {
    return this.isPrefilled ? undefined : this.sequences.find((sequence) => !sequence.finished);
  }

  token(sequence: Sequence, tokenId: number, logprobs: TokenLogprobs | null): void {
    this.#emit({ type: 'token', choice: sequence.choice, tokenId, logprobs });
  }

  error(event: Extract<EngineEvent, { type: 'error' }>): void {
    this.closed = true;
    this.#emit(event);
  }

  /** Ends one choice; the last one ends the request. */
  finish(sequence: Sequence, reason: FinishReason, stopTokenId: number | null): void {
    sequence.finished = true;
    if (sequence.pruning !== null)
      this.#pruning = sumPruning([this.#pruning, sequence.pruning.report(sequence.numComputed)]);
    this.#emit({ type: 'finished', choice: sequence.choice, reason, stopTokenId });
    if (this.sequences.every((s) => s.finished)) this.#done();
  }

  #done(): void {
    this.closed = true;
    const now = performance.now();
    const started = this.#startedMs ?? now;
    const first = this.#firstTokenMs ?? now;
    this.#emit({
      type: 'done',
      usage: {
        promptTokens: this.input.promptIds.length,
        cachedTokens: this.cachedTokens,
        completionTokens: this.sequences.reduce((sum, s) => sum + s.numGenerated, 0),
      },
      timings: {
        queueMs: started - this.#arrivedMs,
        prefillMs: first - started,
        ttftMs: first - this.#arrivedMs,
        decodeMs: now - first,
      },
      pruning: this.#pruning,
    });
  }
}
