/** The engine as other threads see it: starts its thread, passes requests and events, restarts it after a crash. */
import { availableParallelism, totalmem } from 'node:os';
import { Worker } from 'node:worker_threads';
import { AppError, type ErrorCode, errorMessage, invariant } from '../errors.ts';
import type { Vocabulary } from './constraint/vocabulary.ts';
import { EventQueue } from './event-queue.ts';
import { KnownStats } from './known-stats.ts';
import type { FromWorker, ToWorker, WorkerOptions } from './messages.ts';
import type { Precision } from '../graph/linear.ts';
import type { Engine, EngineEvent, EngineStats, GenerationRequest, ModelInfo } from './protocol.ts';

export interface StartOptions {
  readonly modelDir: string;
  readonly precision: Precision;
  /** null = all processors this process may use. */
  readonly threads: number | null;
  readonly cacheDir: string;
  /** Bytes of KV that all sequences and the prefix cache may hold; null = a quarter of the machine's memory. */
  readonly kvMaxBytes: number | null;
  /** Bytes of them that the prefix cache may hold; null = half. */
  readonly prefixCacheMaxBytes: number | null;
  readonly maxRunning: number;
  /** Folder with the DuoAttention pattern; null = the model's own, if it has one. */
  readonly headPattern?: string | null;
  /** Asked for at the first constrained request; without it there can be none. */
  readonly vocabulary?: () => Vocabulary;
  /** Short lines about loading and converting. */
  readonly onProgress?: (message: string) => void;
  /** Told when the engine's thread died, and that it is being restarted. */
  readonly onCrash?: (error: Error) => void;
  /** The compiled worker; only tests name another one. */
  readonly workerUrl?: URL;
}

const DEFAULT_KV_SHARE = 0.25;
const DEFAULT_PREFIX_SHARE = 0.5;
const FIRST_RESTART_DELAY_MS = 100;
const MAX_RESTART_DELAY_MS = 30_000;

/** Memory that this process may use: the machine's, or a container's limit. */
function availableBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

function workerOptions(options: StartOptions): WorkerOptions {
  const kvMaxBytes = options.kvMaxBytes ?? Math.floor(availableBytes() * DEFAULT_KV_SHARE);
  return {
    modelDir: options.modelDir,
    precision: options.precision,
    threads: options.threads ?? availableParallelism(),
    cacheDir: options.cacheDir,
    kvMaxBytes,
    prefixCacheMaxBytes: options.prefixCacheMaxBytes ?? Math.floor(kvMaxBytes * DEFAULT_PREFIX_SHARE),
    maxRunning: options.maxRunning,
    headPattern: options.headPattern ?? null,
  };
}

/** Events for each choice of a request that may lie unread before it is paused. */
const UNREAD_EVENTS = 64;

interface StatsQuery {
  readonly resolve: (stats: EngineStats) => void;
  readonly reject: (error: AppError) => void;
}

class EngineClient implements Engine {
  readonly #options: StartOptions;
  readonly #requests = new Map<string, EventQueue>();
  readonly #queries = new Map<number, StatsQuery>();
  #worker: Worker | null = null;
  /** The thread while it loads the model. */
  #loading: Worker | null = null;
  #hasVocabulary = false;
  #restartTimer: NodeJS.Timeout | undefined;
  #model: ModelInfo | null = null;
  #closed = false;
  #closing: Promise<void> | null = null;
  #numQueries = 0;
  #restartDelayMs = FIRST_RESTART_DELAY_MS;
  readonly #stats = new KnownStats();

  constructor(options: StartOptions) {
    this.#options = options;
  }

  get model(): ModelInfo {
    invariant(this.#model !== null, 'the engine has been started');
    return this.#model;
  }

  get lastStats(): EngineStats | null {
    return this.#stats.last;
  }

  get isReady(): boolean {
    return this.#worker !== null && !this.#closed;
  }

  /** Starts the thread and loads the model. @throws AppError `startup` */
  async start(): Promise<void> {
    const url = this.#options.workerUrl ?? new URL('./worker.js', import.meta.url);
    const worker = new Worker(url, { workerData: workerOptions(this.#options) });
    this.#loading = worker;
    this.#hasVocabulary = false;
    await new Promise<void>((resolve, reject) => {
      const onError = (cause: unknown): void => {
        reject(new AppError('startup', `the engine cannot start: ${errorMessage(cause)}`, { cause }));
      };
      const onExit = (): void => {
        reject(new AppError('startup', 'the engine ended while it loaded the model'));
      };
      worker.once('error', onError);
      worker.once('exit', onExit);
      worker.on('message', (message: FromWorker) => {
        if (message.type === 'failed') reject(new AppError('startup', message.message));
        else if (message.type !== 'ready') this.#receive(message);
        else {
          this.#model = message.model;
          worker.off('error', onError);
          worker.off('exit', onExit);
          resolve();
        }
      });
    }).finally(() => {
      this.#loading = null;
    });
    let cause: Error | null = null;
    worker.once('error', (error: unknown) => {
      cause = error instanceof Error ? error : new Error(errorMessage(error));
    });
    worker.once('exit', () => {
      if (!this.#closed) this.#crashed(cause ?? new Error('the engine thread ended'));
    });
    this.#worker = worker;
    this.#restartDelayMs = FIRST_RESTART_DELAY_MS;
  }

  #receive(message: FromWorker): void {
    switch (message.type) {
      case 'progress':
        this.#options.onProgress?.(message.message);
        break;
      case 'events':
        this.#deliver(message.events);
        break;
      case 'stats':
        this.#answer(message.query, this.#stats.note(message.stats));
        break;
      case 'ready':
      case 'failed':
      case 'closed':
        break;
    }
  }

  #deliver(events: Extract<FromWorker, { type: 'events' }>['events']): void {
    const arrivedMs = performance.now();
    for (const [id, event] of events) {
      const isTimed = event.type === 'token' || event.type === 'started';
      this.#requests.get(id)?.push(isTimed ? { ...event, arrivedMs } : event);
    }
  }

  #crashed(error: Error): void {
    this.#worker = null;
    this.#stats.carry();
    const message = 'the engine stopped unexpectedly and is being restarted';
    this.#endRequests('internal', message);
    this.#answerQueries();
    this.#options.onCrash?.(error);
    this.#restartLater();
  }

  #restartLater(): void {
    this.#restartTimer = setTimeout(() => {
      this.start().catch((error: unknown) => {
        if (this.#closed) return;
        this.#options.onCrash?.(error instanceof Error ? error : new Error(errorMessage(error)));
        this.#restartLater();
      });
    }, this.#restartDelayMs);
    this.#restartDelayMs = Math.min(2 * this.#restartDelayMs, MAX_RESTART_DELAY_MS);
  }

  #answer(query: number | null, stats: EngineStats): void {
    if (query === null) return;
    this.#queries.get(query)?.resolve(stats);
    this.#queries.delete(query);
  }

  /** The thread will not answer: the last known state has to do. */
  #answerQueries(): void {
    const { last } = this.#stats;
    for (const { resolve, reject } of this.#queries.values()) {
      if (last === null) reject(this.#notReady());
      else resolve(last);
    }
    this.#queries.clear();
  }

  #endRequests(code: ErrorCode, message: string): void {
    for (const queue of this.#requests.values()) queue.push({ type: 'error', code, message, param: null });
  }

  #send(message: ToWorker): void {
    this.#worker?.postMessage(message);
  }

  #sendVocabulary(): void {
    if (this.#hasVocabulary) return;
    const { vocabulary } = this.#options;
    invariant(vocabulary !== undefined, 'constrained requests need a vocabulary');
    this.#send({ type: 'vocabulary', vocabulary: vocabulary() });
    this.#hasVocabulary = true;
  }

  #notReady(): AppError {
    return this.#closed
      ? new AppError('draining', 'the engine has been closed')
      : new AppError('model_loading', 'the engine is restarting, try again shortly');
  }

  generate(request: GenerationRequest, signal?: AbortSignal): AsyncIterable<EngineEvent> {
    const tell = (type: 'pause' | 'resume') => () => {
      this.#send({ type, id: request.id });
    };
    const limit = UNREAD_EVENTS * request.numChoices;
    const queue = new EventQueue({ limit, pause: tell('pause'), resume: tell('resume') });
    const events = this.#generate(request, queue, signal);
    const iterator = {
      next: () => events.next(),
      // A generator that waits for an event would return only after it.
      return: () => {
        queue.end();
        return events.return();
      },
    };
    return { [Symbol.asyncIterator]: () => iterator };
  }

  async *#generate(
    request: GenerationRequest,
    queue: EventQueue,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<EngineEvent, void> {
    if (signal?.aborted === true) return;
    if (!this.isReady) {
      const { errorCode, message } = this.#notReady();
      yield { type: 'error', code: errorCode, message, param: null };
      return;
    }
    invariant(!this.#requests.has(request.id), `request id ${request.id} is in use`);
    let isOver = false;
    const cancel = (): void => {
      if (!isOver && !queue.isComplete) this.#send({ type: 'cancel', id: request.id });
      isOver = true;
    };
    // At once: a reader that has stalled would ask for the next event too late, or never.
    const abort = (): void => {
      queue.end();
      cancel();
    };
    signal?.addEventListener('abort', abort, { once: true });
    this.#requests.set(request.id, queue);
    if (request.constraint !== null) this.#sendVocabulary();
    this.#send({ type: 'submit', request });
    try {
      yield* queue;
    } finally {
      signal?.removeEventListener('abort', abort);
      this.#requests.delete(request.id);
      cancel();
    }
  }

  stopChoice(requestId: string, choice: number): void {
    this.#send({ type: 'stopChoice', id: requestId, choice });
  }

  async stats(): Promise<EngineStats> {
    return new Promise((resolve, reject) => {
      const query = this.#numQueries++;
      this.#queries.set(query, { resolve, reject });
      if (this.#worker === null) this.#answerQueries();
      else this.#send({ type: 'stats', query });
    });
  }

  /** Whoever asks again waits for the same end. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#restartTimer);
    if (this.#loading !== null) {
      await this.#loading.terminate();
      this.#worker = null; // It may have become ready in its last moment.
    }
    this.#endRequests('draining', 'the engine has been closed');
    const worker = this.#worker;
    this.#worker = null;
    if (worker === null) return;
    const exited = new Promise((resolve) => worker.once('exit', resolve));
    worker.postMessage({ type: 'close' } satisfies ToWorker);
    await exited;
    this.#answerQueries();
  }
}

/** Starts an engine in its own thread. @throws AppError `startup` when the model cannot be loaded */
export async function startEngine(options: StartOptions): Promise<Engine> {
  const engine = new EngineClient(options);
  await engine.start();
  return engine;
}
