/** Runs the engine in this thread, on small models at full precision, and records what every request hears. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { greedyRequest } from '../../../bench/greedy-request.ts';
import type { LayerResult, LayerRun } from '../../../src/graph/session.ts';
import { bytesFor } from '../../../src/kv/sequence-cache.ts';
import { InferenceEngine, type EngineOptions } from '../../../src/runtime/engine.ts';
import { Model } from '../../../src/runtime/model.ts';
import {
  GREEDY as ALL_OFF,
  type EngineEvent,
  type GenerationRequest,
  type SamplingParams,
} from '../../../src/runtime/protocol.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
export const STORIES = join(ROOT, 'test/fixtures/models/stories260K');
export const BABYLLAMA = join(ROOT, 'test/fixtures/models/babyllama-tok105');
export const SLIDING_WINDOW = join(ROOT, 'test/fixtures/arch/mistral-swa');
export const PRUNED_SHAPES = join(ROOT, 'test/fixtures/arch/llama-pruned-shapes');
export const RECALL = join(ROOT, 'models/coppice-recall');

/** Loads a model at fp32; `config` replaces keys of its config.json, such as the context length. */
export async function loadModel(dir: string, config: Record<string, unknown> = {}): Promise<Model> {
  const scratch = mkdtempSync(join(tmpdir(), 'coppice-model-'));
  try {
    const modelDir = join(scratch, 'model');
    cpSync(dir, modelDir, { recursive: true });
    const file = join(modelDir, 'config.json');
    const original = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    writeFileSync(file, JSON.stringify({ ...original, ...config }));
    return await Model.load({ modelDir, precision: 'fp32', threads: 1, cacheDir: join(scratch, 'cache') });
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

type Run = (run: LayerRun) => Promise<LayerResult>;

/** The same model with every run going through `around`. */
function interceptRuns(model: Model, around: (run: LayerRun, next: Run) => Promise<LayerResult>): Model {
  const session = {
    decodeSizes: model.session.decodeSizes,
    run: (run: LayerRun) => around(run, (inner) => model.session.run(inner)),
  };
  return Object.create(model, { session: { value: session } }) as Model;
}

/** Counts the rows that enter the model: prompts, and the padded rows of decode steps. */
export function countRows(model: Model): { model: Model; numRows: () => number } {
  let count = 0;
  const counted = interceptRuns(model, (run, next) => {
    if (run.layer === 0) count += run.numRows;
    return next(run);
  });
  return { model: counted, numRows: () => count };
}

const GREEDY: SamplingParams = { ...ALL_OFF, seed: 1 };

export type RequestOptions = Omit<Partial<GenerationRequest>, 'promptIds' | 'sampling'> & {
  readonly sampling?: Partial<SamplingParams>;
};

let numRequests = 0;

/** Greedy, 8 tokens, no stop ids, without the prefix cache, unless told otherwise. */
export function makeRequest(promptIds: ArrayLike<number>, options: RequestOptions = {}): GenerationRequest {
  return greedyRequest({
    id: `request-${numRequests++}`,
    maxTokens: 8,
    pruning: null,
    ...options,
    promptIds: Int32Array.from(promptIds),
    sampling: { ...GREEDY, ...options.sampling },
  });
}

/** Ids that look random, 3 <= id < vocabSize; equal seeds give equal beginnings. */
export function makeIds(length: number, vocabSize: number, seed: number): number[] {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + ((state >>> 8) % (vocabSize - 3));
  });
}

type Of<Type extends EngineEvent['type']> = Extract<EngineEvent, { type: Type }>;

/** What one request heard. */
export class Recording {
  readonly request: GenerationRequest;
  readonly events: EngineEvent[] = [];
  /** Number of events when the request was cancelled. */
  cancelledAt: number | null = null;

  constructor(request: GenerationRequest) {
    this.request = request;
  }

  all<Type extends EngineEvent['type']>(type: Type): Of<Type>[] {
    return this.events.filter((event): event is Of<Type> => event.type === type);
  }

  tokens(choice = 0): number[] {
    return this.all('token')
      .filter((event) => event.choice === choice)
      .map((event) => event.tokenId);
  }

  finish(choice = 0): Of<'finished'> | undefined {
    return this.all('finished').find((event) => event.choice === choice);
  }

  get done(): Of<'done'> {
    const [done] = this.all('done');
    if (done === undefined) throw new Error(`no done in ${JSON.stringify(this.events)}`);
    return done;
  }

  get hasEnded(): boolean {
    return this.events.some((event) => event.type === 'done' || event.type === 'error');
  }

  /** Holds for every request once the engine is idle. */
  assertWellFormed(): void {
    const { request, events } = this;
    const terminals = events.filter((event) => event.type === 'done' || event.type === 'error');
    expect(terminals.length, `ends of ${request.id}`).toBe(this.cancelledAt === null ? 1 : terminals.length);
    if (terminals.length > 0) {
      expect(terminals).toHaveLength(1);
      expect(events.at(-1)).toBe(terminals[0]);
    }
    if (this.cancelledAt !== null) {
      // A refusal or stop that was asked for before the cancel, in the same turn, is still told.
      const late = events.slice(this.cancelledAt).map((event) => event.type);
      expect(late.filter((type) => !['finished', 'done', 'error'].includes(type))).toEqual([]);
    }
    for (let choice = 0; choice < request.numChoices; choice++) this.#assertChoice(choice);
    this.#assertStart();
    const progress = this.all('progress').map((event) => event.processed);
    for (const [i, processed] of progress.entries())
      expect(processed, 'progress rises').toBeGreaterThan(progress[i - 1] ?? -1);
    if (terminals[0]?.type === 'done') this.#assertUsage(terminals[0]);
  }

  /** Once, before anything that is computed. */
  #assertStart(): void {
    const starts = this.all('started');
    expect(starts.length).toBeLessThanOrEqual(1);
    const first = this.events.find(({ type }) => ['started', 'progress', 'token'].includes(type));
    expect(first).toBe(starts[0]);
    const [done] = this.all('done');
    if (done !== undefined) expect(starts[0]?.cachedTokens ?? 0).toBe(done.usage.cachedTokens);
  }

  #assertChoice(choice: number): void {
    const own = this.events.filter((event) => 'choice' in event && event.choice === choice);
    const isDone = this.all('done').length > 0;
    const finished = own.filter((event) => event.type === 'finished');
    if (isDone) expect(finished).toHaveLength(1);
    else expect(finished.length).toBeLessThanOrEqual(1);
    if (finished.length > 0) expect(own.at(-1)?.type, 'no token after the finish').toBe('finished');
    expect(this.tokens(choice).length).toBeLessThanOrEqual(this.request.maxTokens);
  }

  #assertUsage({ usage, timings }: Of<'done'>): void {
    const stops = this.all('finished').filter((event) => event.stopTokenId !== null).length;
    expect(usage.completionTokens).toBe(this.all('token').length + stops);
    expect(usage.promptTokens).toBe(this.request.promptIds.length);
    expect(usage.cachedTokens).toBeGreaterThanOrEqual(0);
    expect(usage.cachedTokens).toBeLessThan(usage.promptTokens);
    for (const ms of Object.values(timings)) expect(ms).toBeGreaterThanOrEqual(0);
    expect(timings.ttftMs).toBeCloseTo(timings.queueMs + timings.prefillMs, 6);
  }
}

const PLENTY: EngineOptions = { kvMaxBytes: 2 ** 28, prefixCacheMaxBytes: 2 ** 27, maxRunning: 16 };

/** An engine, what was asked of it, and the checks that hold after every turn. */
export class EngineRun {
  readonly engine: InferenceEngine;
  readonly recordings: Recording[] = [];
  readonly #maxRunning: number;

  constructor(model: Model, options: Partial<EngineOptions> = {}) {
    const all = { ...PLENTY, ...options };
    this.#maxRunning = all.maxRunning;
    this.engine = new InferenceEngine(model, all);
  }

  submit(request: GenerationRequest): Recording {
    const recording = new Recording(request);
    this.recordings.push(recording);
    this.engine.submit(request, (event) => recording.events.push(event));
    return recording;
  }

  cancel(recording: Recording): void {
    recording.cancelledAt ??= recording.events.length;
    this.engine.cancel(recording.request.id);
  }

  async turn(): Promise<void> {
    await this.engine.turn();
    const { running, waiting, parked, kvBytes, prefixCacheBytes, kvLimitBytes } = this.engine.stats();
    const live = this.recordings.filter((r) => r.cancelledAt === null && !r.hasEnded);
    const numChoices = live.reduce((sum, { request }) => sum + request.numChoices, 0);
    expect(running).toBeLessThanOrEqual(this.#maxRunning);
    const numAlive = running + waiting + parked;
    expect(numAlive, 'every live request waits, runs or is parked').toBeGreaterThanOrEqual(live.length);
    expect(numAlive, 'nothing else does').toBeLessThanOrEqual(numChoices);
    expect(kvBytes).toBeGreaterThanOrEqual(0);
    expect(prefixCacheBytes).toBeGreaterThanOrEqual(0);
    expect(kvBytes + prefixCacheBytes).toBeLessThanOrEqual(kvLimitBytes);
    if (running === 0) expect(kvBytes).toBe(0);
  }

  /** Turns until nothing is left to do, and checks what must hold then. */
  async untilIdle(maxTurns = 3000): Promise<void> {
    for (let turn = 0; !this.engine.isIdle; turn++) {
      if (turn === maxTurns)
        throw new Error(`not idle after ${maxTurns} turns: ${JSON.stringify(this.engine.stats())}`);
      await this.turn();
    }
    expect(this.engine.stats()).toMatchObject({ running: 0, waiting: 0, parked: 0, kvBytes: 0 });
    for (const recording of this.recordings) recording.assertWellFormed();
  }
}

/** The outcome of a request that has an engine with plenty of memory to itself. */
export async function runAlone(model: Model, request: GenerationRequest): Promise<Recording> {
  const run = new EngineRun(model);
  const recording = run.submit(request);
  await run.untilIdle();
  return recording;
}

/** Bytes that a sequence with this many entries occupies. */
export function kvBytes(model: Model, numEntries: number): number {
  return bytesFor(model.kvShape, numEntries);
}
