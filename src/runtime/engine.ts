/**
 * The engine loop. Every turn: start what fits, advance all decoding sequences by one token, then a bounded slice of
 * the prefill pass. One engine runs in one thread and owns the model, the KV pool and all sequences.
 */
import { AppError, errorMessage, invariant } from '../errors.ts';
import { type ActivePolicies, createPolicies } from '../policies/index.ts';
import { ConstraintCompiler } from './constraint/compiler.ts';
import type { ConstraintMatcher } from './constraint/matcher.ts';
import type { Vocabulary } from './constraint/vocabulary.ts';
import { decodeGroups, decodeStep } from './decode.ts';
import { Memory, type MemoryOptions } from './memory.ts';
import type { Model } from './model.ts';
import type { PrefillRequest } from './prefill-lane.ts';
import { PrefillSchedule } from './prefill-schedule.ts';
import type { PrunedRequest } from './pruning/pruned-lane.ts';
import { soloStep } from './pruning/solo-decode.ts';
import type { EngineEvent, EngineStats, GenerationRequest } from './protocol.ts';
import { Room } from './room.ts';
import { createSamplingWorkspace, type SamplingWorkspace } from './sampling/distribution.kernel.ts';
import { tokenLogprobs } from './sampling/logprobs.kernel.ts';
import { createSampler } from './sampling/sampler.ts';
import { Scheduler } from './scheduler.ts';
import { LiveRequest, Sequence } from './sequence.ts';

export interface EngineOptions extends MemoryOptions {
  /** Most sequences that hold a cache at a time. */
  readonly maxRunning: number;
}

function errorEvent(error: unknown): Extract<EngineEvent, { type: 'error' }> {
  const { errorCode, param } =
    error instanceof AppError ? error : ({ errorCode: 'internal', param: null } as const);
  return { type: 'error', code: errorCode, message: errorMessage(error), param };
}

export class InferenceEngine {
  readonly #model: Model;
  readonly #memory: Memory;
  readonly #scheduler: Scheduler;
  readonly #prefill: PrefillSchedule;
  readonly #room: Room;
  readonly #workspace: SamplingWorkspace;
  readonly #requests = new Map<string, LiveRequest>();
  /** What callers asked since the last turn; caches may change hands only between turns, never during a run. */
  #inbox: (() => void | Promise<void>)[] = [];
  #constraints: ConstraintCompiler | null = null;
  #numArrived = 0;
  #promptTokens = 0;
  #cachedTokens = 0;
  #generatedTokens = 0;

  constructor(model: Model, options: EngineOptions) {
    this.#model = model;
    this.#memory = new Memory(model, options);
    this.#scheduler = new Scheduler(options.maxRunning);
    this.#prefill = new PrefillSchedule(model, {
      admit: (sequence) => this.#admit(sequence),
      lane: (sequence, end) => this.#lane(sequence, end),
    });
    this.#room = new Room({
      memory: this.#memory,
      scheduler: this.#scheduler,
      prefill: this.#prefill,
      onTooLarge: ({ request }) => {
        const message = 'expected more KV memory: the request does not fit even alone';
        this.#fail(request, new AppError('kv_memory_exceeded', message));
      },
    });
    this.#workspace = createSamplingWorkspace(model.info.vocabSize);
  }

  /** No request is alive. */
  get isIdle(): boolean {
    return this.#requests.size === 0 && this.#inbox.length === 0;
  }

  /** Whether a turn would do anything. Without, only what callers ask for next changes that. */
  get hasWork(): boolean {
    const { running, waiting } = this.#scheduler;
    if (this.#inbox.length > 0 || waiting.length > 0) return true;
    // A prefill pass ends what it has begun: a part of a prompt in some layers is of no use.
    return running.some((sequence) => !sequence.request.isPaused || this.#prefill.has(sequence));
  }

  stats(): EngineStats {
    return {
      running: this.#scheduler.running.length,
      waiting: this.#scheduler.waiting.length,
      parked: this.#scheduler.parked.length,
      ...this.#memory.state(this.#scheduler.running),
      preemptions: this.#room.preemptions,
      promptTokens: this.#promptTokens,
      cachedTokens: this.#cachedTokens,
      generatedTokens: this.#generatedTokens,
    };
  }

  /** Queues a request for the next turn. `emit` receives its events; one that can never run gets its error at once. */
  submit(input: GenerationRequest, emit: (event: EngineEvent) => void): void {
    this.#inbox.push(() => this.#accept(input, emit));
  }

  /** What constrained requests are made of; costs nothing before the first of them, which must come later. */
  setVocabulary(vocabulary: Vocabulary): void {
    this.#constraints ??= new ConstraintCompiler(vocabulary, this.#model.info.vocabSize);
  }

  /** Live states of constraints: none while idle. */
  get numMatchers(): number {
    return this.#constraints?.numMatchers ?? 0;
  }

  /** Ends a request without a reply and frees what it holds, before the next turn. Unknown ids have ended already. */
  cancel(id: string): void {
    this.#inbox.push(() => {
      this.#drop(id);
    });
  }

  /** Ends one choice with reason `stop`, before the next turn: its text is complete. */
  stopChoice(id: string, choice: number): void {
    this.#inbox.push(() => {
      const sequence = this.#requests.get(id)?.sequences[choice];
      if (sequence !== undefined && !sequence.finished) this.#stop(sequence);
    });
  }

  /**
   * While a request's reader is behind, before the next turn and until {@link resume}, nothing of it is computed. It
   * keeps its place and memory until others need them; then it is parked, and computed again as if preempted.
   */
  pause(id: string): void {
    this.#inbox.push(() => {
      this.#setPaused(id, true);
    });
  }

  resume(id: string): void {
    this.#inbox.push(() => {
      this.#setPaused(id, false);
    });
  }

  /** One pass of the loop. After an exception the engine is in no known state and must be thrown away. */
  async turn(): Promise<void> {
    for (const handle of this.#inbox.splice(0)) await handle();
    this.#room.clear();
    this.#prefill.start(this.#scheduler);
    const decoding = this.#room.forDecoding();
    for (const group of decodeGroups(decoding, this.#groupSize)) await this.#decode(group);
    await this.#prefill.slice();
    if (this.isIdle) this.#memory.checkIdle();
  }

  // ---- requests

  async #accept(input: GenerationRequest, emit: (event: EngineEvent) => void): Promise<void> {
    invariant(!this.#requests.has(input.id), `request id ${input.id} is in use`);
    const request = new LiveRequest(input, this.#policies(input), this.#numArrived++, emit);
    try {
      this.#refuse(request);
      const constraints = await this.#constrain(input);
      for (let choice = 0; choice < input.numChoices; choice++) {
        const constraint = constraints?.[choice] ?? null;
        const context = { ...input, choice, constraint, workspace: this.#workspace };
        const sampler = createSampler(input.sampling, context);
        request.sequences.push(new Sequence(request, choice, sampler, input.maxTokens));
      }
    } catch (error) {
      request.error(errorEvent(error));
      return;
    }
    this.#requests.set(input.id, request);
    // The other choices join when the first one's prompt is computed.
    if (request.leader !== undefined) this.#scheduler.enqueue(request.leader);
  }

  /** One a choice, or null where anything may be said. */
  async #constrain(input: GenerationRequest): Promise<readonly ConstraintMatcher[] | null> {
    if (input.constraint === null) return null;
    invariant(this.#constraints !== null, 'the vocabulary comes before constrained requests');
    return this.#constraints.createMatchers(input.constraint, input.numChoices, input.stopTokenIds);
  }

  /** Null when nothing is left out. */
  #policies({ pruning }: GenerationRequest): ActivePolicies | null {
    if (pruning === null || Object.keys(pruning.families).length === 0) return null;
    return createPolicies(pruning, this.#model.info.shape);
  }

  /** Throws when the request can never run. */
  #refuse(request: LiveRequest): void {
    const { input } = request;
    const { contextLength, vocabSize } = this.#model.info;
    const wanted = input.promptIds.length + input.maxTokens;
    if (input.promptIds.length === 0)
      throw new AppError('invalid_request', 'expected at least one prompt token', { param: 'prompt' });
    const unknown = input.promptIds.find((id) => id < 0 || id >= vocabSize);
    invariant(unknown === undefined, `prompt token ${unknown} of a vocabulary of ${vocabSize}`);
    if (wanted > contextLength) {
      const message = `expected at most ${contextLength} tokens of context, got ${input.promptIds.length} in the prompt and ${input.maxTokens} requested`;
      throw new AppError('context_length_exceeded', message);
    }
    this.#memory.assertFits(request);
  }

  #drop(id: string): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    request.closed = true;
    for (const sequence of request.sequences) {
      this.#room.leave(sequence);
      sequence.sampler.free();
    }
    this.#requests.delete(id);
  }

  #setPaused(id: string, isPaused: boolean): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    request.isPaused = isPaused;
    this.#scheduler.requeue(request);
  }

  get #groupSize(): number {
    return this.#model.session.decodeSizes.at(-1) ?? 1;
  }

  // ---- prefill

  #admit(sequence: Sequence): boolean {
    if (!this.#room.open(sequence)) return false;
    if (sequence.request.start(sequence.numComputed)) {
      this.#promptTokens += sequence.numTokens;
      this.#cachedTokens += sequence.numComputed;
    }
    return true;
  }

  #lane(sequence: Sequence, end: number): PrefillRequest | PrunedRequest {
    const { cache, pruning, numComputed: start } = sequence;
    invariant(cache !== null, 'a sequence in a pass has a cache');
    const { input } = sequence.request;
    const scores = input.promptLogprobs !== null && sequence.numGenerated === 0;
    const isComplete = end === sequence.prefillEnd;
    const lane = {
      tokenIds: sequence.ids.slice(start, end),
      start,
      cache,
      logits: scores ? ('all' as const) : isComplete ? ('last' as const) : ('none' as const),
      onLogits: (row: number, logits: Float32Array) => {
        const position = start + row;
        if (scores) this.#scorePrompt(sequence, position, logits);
        const isLast = position === sequence.prefillEnd - 1;
        if (isLast && !sequence.request.closed) this.#prefilled(sequence, logits);
      },
    };
    if (pruning === null) return lane;
    return { ...lane, pruning, ...this.#room.forRows(sequence) };
  }

  #scorePrompt(sequence: Sequence, position: number, logits: Float32Array): void {
    const { request } = sequence;
    const { promptIds, promptLogprobs } = request.input;
    const next = promptIds[position + 1];
    if (position === 0) request.promptLogprobs = [null];
    if (next === undefined) return;
    const scored = this.#attempt(request, () => tokenLogprobs(logits, next, promptLogprobs ?? 0));
    if (scored !== null) request.promptLogprobs.push(scored);
  }

  /** The whole prompt is computed: sample from its last logits, and let the other choices start from a copy. */
  #prefilled(sequence: Sequence, logits: Float32Array): void {
    const { request } = sequence;
    this.#prefill.drop(sequence);
    sequence.numComputed = sequence.prefillEnd;
    request.progress(sequence.numTokens);
    const isFirst = request.prefilled();
    const others = isFirst ? request.sequences.filter((other) => other !== sequence) : [];
    for (const other of others) {
      if (other.finished || request.closed) continue;
      if (!this.#room.join(sequence, other)) {
        other.releaseCache();
        this.#scheduler.enqueue(other);
      }
      this.#advance(other, logits.slice());
    }
    // Preempted under pruning, it decodes again what it had generated.
    if (sequence.numOwed === 0) this.#advance(sequence, logits);
  }

  // ---- decode

  async #decode(group: readonly Sequence[]): Promise<void> {
    // A choice that failed, or a sequence that needed room, in the group before this one may have taken others along.
    const sequences = group.filter(({ request, cache }) => !request.closed && cache !== null);
    const [first] = sequences;
    if (first === undefined) return;
    const logits =
      first.pruning?.decodeGroup === null
        ? await this.#decodeSolo(first)
        : await this.#decodeBatch(sequences);
    sequences.forEach((sequence, i) => {
      const row = logits[i];
      if (row === undefined || sequence.cache === null) return;
      sequence.numComputed++;
      if (sequence.numOwed === 0) this.#advance(sequence, row);
    });
  }

  async #decodeBatch(sequences: readonly Sequence[]): Promise<Float32Array[]> {
    const rows = sequences.map(({ cache, pruning, nextId, numComputed }) => {
      invariant(cache !== null, 'a decoding sequence has a cache');
      return { tokenId: nextId, position: numComputed, cache, pruning };
    });
    return decodeStep(this.#model, rows);
  }

  async #decodeSolo(sequence: Sequence): Promise<Float32Array[]> {
    const { pruning, nextId, numComputed } = sequence;
    invariant(pruning !== null, 'only pruned sequences decode alone');
    const row = { tokenId: nextId, position: numComputed, pruning, ...this.#room.forRows(sequence) };
    const logits = await soloStep(this.#model, row);
    return logits === null ? [] : [logits];
  }

  /** Samples a sequence's next token and ends the sequence if that was its last. */
  #advance(sequence: Sequence, logits: Float32Array): void {
    const { request } = sequence;
    const { input } = request;
    if (sequence.finished || request.closed) return;
    if (input.maxTokens === 0) {
      this.#finish(sequence, 'length', null);
      return;
    }
    const sample = this.#attempt(request, () => sequence.sampler.sample(logits));
    if (sample === null) return;
    if (sample === 'complete') {
      this.#finish(sequence, 'stop', null);
      return;
    }
    this.#generatedTokens++;
    sequence.push(sample.tokenId);
    if (input.stopTokenIds.includes(sample.tokenId)) {
      this.#finish(sequence, 'stop', sample.tokenId);
      return;
    }
    request.token(sequence, sample.tokenId, sample.logprobs);
    if (sequence.numGenerated >= input.maxTokens) this.#finish(sequence, 'length', null);
  }

  #finish(sequence: Sequence, reason: 'stop' | 'length', stopTokenId: number | null): void {
    const { request } = sequence;
    request.finish(sequence, reason, stopTokenId);
    this.#room.leave(sequence);
    sequence.sampler.free();
    if (request.closed) this.#requests.delete(request.input.id);
  }

  /** The text of a choice is complete. If the prompt was being computed for it, the next choice takes its place. */
  #stop(sequence: Sequence): void {
    const { request } = sequence;
    const wasLeader = sequence === request.leader;
    this.#finish(sequence, 'stop', null);
    const { leader } = request;
    if (wasLeader && leader !== undefined) this.#scheduler.enqueue(leader);
  }

  #fail(request: LiveRequest, error: unknown): void {
    request.error(errorEvent(error));
    for (const sequence of request.sequences) {
      this.#prefill.drop(sequence);
      // Whatever spoilt the logits may be in the cache as well: no other request shall meet it.
      sequence.releaseCache();
    }
    this.#drop(request.input.id);
  }

  /** What a request's own numbers break ends that request and no other. Null if it did. */
  #attempt<Result>(request: LiveRequest, action: () => Result): Result | null {
    try {
      return action();
    } catch (error) {
      this.#fail(request, error);
      return null;
    }
  }

  async close(): Promise<void> {
    for (const id of [...this.#requests.keys()]) this.#drop(id);
    this.#constraints?.close();
    this.#memory.clear();
    await this.#model.close();
  }
}
