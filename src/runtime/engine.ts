/**
 * The engine loop. Every turn: start what fits, advance all decoding sequences by one token, then a bounded slice of
 * the prefill pass. One engine runs in one thread and owns the model, the KV pool and all sequences.
 */
import { AppError, errorMessage, invariant } from '../errors.ts';
import { decodeStep } from './decode.ts';
import { Memory, type MemoryOptions } from './memory.ts';
import type { Model } from './model.ts';
import { PrefillPass } from './prefill.ts';
import type { EngineEvent, EngineStats, GenerationRequest } from './protocol.ts';
import { createSamplingWorkspace, type SamplingWorkspace } from './sampling/distribution.kernel.ts';
import { tokenLogprobs } from './sampling/logprobs.kernel.ts';
import { createSampler } from './sampling/sampler.ts';
import { Scheduler } from './scheduler.ts';
import { LiveRequest, Sequence } from './sequence.ts';

export interface EngineOptions extends MemoryOptions {
  /** Most sequences that hold a cache at a time. */
  readonly maxRunning: number;
}

/** Rows that one prefill pass takes together; prompts that arrive together then start to decode together. */
const PASS_ROWS = 2048;
/** Most rows of the first prompt in a pass, */
const FIRST_LANE_ROWS = 1024;
/** and of each one behind it: short prompts need not wait until the long ones before them are computed. */
const OTHER_LANE_ROWS = 256;
/** Tiles between two decode steps: how long a prompt may hold up the others' next token. */
const TILES_PER_TURN = 2;

function errorEvent(error: unknown): Extract<EngineEvent, { type: 'error' }> {
  const { errorCode, param } =
    error instanceof AppError ? error : ({ errorCode: 'internal', param: null } as const);
  return { type: 'error', code: errorCode, message: errorMessage(error), param };
}

export class InferenceEngine {
  readonly #model: Model;
  readonly #memory: Memory;
  readonly #scheduler: Scheduler;
  readonly #workspace: SamplingWorkspace;
  readonly #requests = new Map<string, LiveRequest>();
  /** What callers asked since the last turn; caches may change hands only between turns, never during a run. */
  #inbox: (() => void)[] = [];
  #pass: PrefillPass | null = null;
  /** Members of the pass, and the position up to which each is computed in it. */
  #inPass = new Map<Sequence, number>();
  #numArrived = 0;
  #preemptions = 0;
  #promptTokens = 0;
  #cachedTokens = 0;
  #generatedTokens = 0;

  constructor(model: Model, options: EngineOptions) {
    this.#model = model;
    this.#memory = new Memory(model.kvShape, model.info.contextLength, options);
    this.#scheduler = new Scheduler(options.maxRunning);
    this.#workspace = createSamplingWorkspace(model.info.vocabSize);
  }

  get isIdle(): boolean {
    return this.#requests.size === 0 && this.#inbox.length === 0;
  }

  stats(): EngineStats {
    return {
      running: this.#scheduler.running.length,
      waiting: this.#scheduler.waiting.length,
      ...this.#memory.bytes,
      preemptions: this.#preemptions,
      promptTokens: this.#promptTokens,
      cachedTokens: this.#cachedTokens,
      generatedTokens: this.#generatedTokens,
    };
  }

  /** Queues a request for the next turn. `emit` receives its events; one that can never run gets its error at once. */
  submit(input: GenerationRequest, emit: (event: EngineEvent) => void): void {
    this.#inbox.push(() => {
      this.#accept(input, emit);
    });
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

  /** One pass of the loop. After an exception the engine is in no known state and must be thrown away. */
  async turn(): Promise<void> {
    for (const handle of this.#inbox.splice(0)) handle();
    if (this.#pass === null) this.#startPass();
    const decoding = this.#makeRoom();
    for (let i = 0; i < decoding.length; i += this.#groupSize)
      await this.#decode(decoding.slice(i, i + this.#groupSize));
    await this.#prefillSlice();
    if (this.isIdle) this.#memory.checkIdle();
  }

  // ---- requests

  #accept(input: GenerationRequest, emit: (event: EngineEvent) => void): void {
    invariant(!this.#requests.has(input.id), `request id ${input.id} is in use`);
    const request = new LiveRequest(input, this.#numArrived++, emit);
    try {
      this.#refuse(input);
      for (let choice = 0; choice < input.numChoices; choice++) {
        const sampler = createSampler(input.sampling, { ...input, choice, workspace: this.#workspace });
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

  /** Throws when the request can never run. */
  #refuse(input: GenerationRequest): void {
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
    this.#memory.assertFits(wanted);
  }

  #drop(id: string): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    request.closed = true;
    for (const sequence of request.sequences) this.#leave(sequence);
    this.#requests.delete(id);
  }

  get #groupSize(): number {
    return this.#model.session.decodeSizes.at(-1) ?? 1;
  }

  // ---- memory

  /** Gives every decoding sequence room for its next entry, preempting the least urgent ones if there is none. */
  #makeRoom(): Sequence[] {
    const decoding = this.#scheduler.running.filter(
      (sequence) => !this.#inPass.has(sequence) && sequence.isDecoding,
    );
    for (const sequence of decoding) {
      while (sequence.cache !== null && !this.#memory.reserve(sequence.cache, sequence.numTokens)) {
        const victim = this.#scheduler.victim();
        invariant(victim !== undefined, 'a running sequence can be preempted');
        this.#preempt(victim);
      }
    }
    return decoding.filter((sequence) => sequence.cache !== null);
  }

  #preempt(sequence: Sequence): void {
    this.#preemptions++;
    this.#dropFromPass(sequence);
    this.#scheduler.remove(sequence);
    sequence.releaseCache();
    this.#scheduler.enqueue(sequence);
  }

  #dropFromPass(sequence: Sequence): void {
    if (this.#inPass.delete(sequence) && sequence.cache !== null) this.#pass?.drop(sequence.cache);
  }

  /** Takes a sequence out of everything and frees or keeps its cache. */
  #leave(sequence: Sequence): void {
    // In a pass some layers are ahead of others: that cache is of no use to anybody.
    const wasInPass = this.#inPass.has(sequence);
    this.#dropFromPass(sequence);
    this.#scheduler.remove(sequence);
    if (wasInPass) sequence.releaseCache();
    else this.#memory.close(sequence);
  }

  // ---- prefill

  #startPass(): void {
    const ends = new Map<Sequence, number>();
    let rows = 0;
    const join = (sequence: Sequence): void => {
      const share = Math.min(sequence.numOwed, ends.size === 0 ? FIRST_LANE_ROWS : OTHER_LANE_ROWS);
      ends.set(sequence, sequence.numComputed + share);
      rows += share;
    };
    for (const sequence of this.#scheduler.running)
      if (!sequence.isDecoding && rows < PASS_ROWS) join(sequence);
    this.#scheduler.start((sequence) => {
      if (rows >= PASS_ROWS || !this.#admit(sequence)) return false;
      join(sequence);
      return true;
    });
    if (ends.size === 0) return;
    this.#inPass = ends;
    this.#pass = new PrefillPass(
      this.#model,
      [...ends].map(([sequence, end]) => this.#lane(sequence, end)),
    );
  }

  #admit(sequence: Sequence): boolean {
    if (!this.#memory.open(sequence)) return false;
    if (sequence.request.start(sequence.numComputed)) {
      this.#promptTokens += sequence.numTokens;
      this.#cachedTokens += sequence.numComputed;
    }
    return true;
  }

  #lane(sequence: Sequence, end: number) {
    const { cache, numComputed: start } = sequence;
    invariant(cache !== null, 'a sequence in a pass has a cache');
    const { input } = sequence.request;
    const scores = input.promptLogprobs !== null && sequence.numGenerated === 0;
    const isComplete = end === sequence.numTokens;
    return {
      tokenIds: sequence.ids.slice(start, end),
      start,
      cache,
      logits: scores ? ('all' as const) : isComplete ? ('last' as const) : ('none' as const),
      onLogits: (row: number, logits: Float32Array) => {
        const position = start + row;
        if (scores) this.#scorePrompt(sequence, position, logits);
        const isLast = position === sequence.numTokens - 1;
        if (isLast && !sequence.request.closed) this.#prefilled(sequence, logits);
      },
    };
  }

  async #prefillSlice(): Promise<void> {
    const pass = this.#pass;
    if (pass === null) return;
    for (let tile = 0; tile < TILES_PER_TURN; tile++) {
      if (await pass.step()) continue;
      this.#endPass();
      return;
    }
    for (const [sequence, end] of this.#inPass) {
      const rows = end - sequence.numComputed;
      sequence.request.progress(sequence.numComputed + Math.floor(rows * pass.share));
    }
  }

  #endPass(): void {
    this.#pass = null;
    for (const [sequence, end] of this.#inPass) {
      // Only prompts that go on are left here: the others left the pass with their logits.
      sequence.numComputed = end;
      sequence.request.progress(sequence.numComputed);
    }
    this.#inPass.clear();
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
    this.#inPass.delete(sequence);
    sequence.numComputed = sequence.numTokens;
    request.progress(sequence.numTokens);
    const isFirst = request.prefilled();
    const others = isFirst ? request.sequences.filter((other) => other !== sequence) : [];
    for (const other of others) {
      if (other.finished || request.closed) continue;
      other.cache = this.#memory.fork(sequence);
      other.numComputed = other.cache === null ? 0 : sequence.numComputed;
      if (other.cache === null || !this.#scheduler.join(other)) {
        other.releaseCache();
        this.#scheduler.enqueue(other);
      }
      this.#advance(other, logits.slice());
    }
    this.#advance(sequence, logits);
  }

  // ---- decode

  async #decode(group: readonly Sequence[]): Promise<void> {
    // A choice that failed in the group before this one has taken the others of its request along.
    const sequences = group.filter((sequence) => !sequence.request.closed);
    if (sequences.length === 0) return;
    const rows = sequences.map((sequence) => {
      invariant(sequence.cache !== null, 'a decoding sequence has a cache');
      return { tokenId: sequence.lastId, position: sequence.numComputed, cache: sequence.cache };
    });
    const logits = await decodeStep(this.#model, rows);
    sequences.forEach((sequence, i) => {
      sequence.numComputed++;
      this.#advance(sequence, logits[i] ?? new Float32Array(0));
    });
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
    this.#leave(sequence);
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
      this.#dropFromPass(sequence);
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
    this.#memory.clear();
    await this.#model.close();
  }
}
