/** One model of the server: loaded at the start or when first used, unloaded when idle for long if so configured. */
import { AppError } from '../errors.ts';
import { KnownStats } from '../runtime/known-stats.ts';
import type { EngineStats, ModelInfo } from '../runtime/protocol.ts';
import { ClientGoneError } from './generation-job.ts';
import type { LoadedModel } from './model.ts';
import type { Call } from './operation.ts';

export interface ModelSource {
  /** Name on the wire. */
  readonly id: string;
  readonly loadsAtStart: boolean;
  /** Idle time after which it is unloaded; null = never. */
  readonly unloadAfterMs: number | null;
  /** What its files say without loading it. @throws AppError `startup` */
  describe(): ModelInfo;
  /** @throws AppError `startup` */
  load(): Promise<LoadedModel>;
}

export class ServedModel {
  readonly id: string;
  readonly loadsAtStart: boolean;
  readonly #source: ModelSource;
  readonly #stats = new KnownStats();
  #loaded: LoadedModel | null;
  #wasLoaded: boolean;
  #loading: Promise<LoadedModel> | null = null;
  #unloading: Promise<void> = Promise.resolve();
  #info: ModelInfo | null = null;
  /** Requests that hold the model. */
  #numUses = 0;
  #idleTimer: NodeJS.Timeout | undefined;

  constructor(source: ModelSource, loaded: LoadedModel | null = null) {
    this.#source = source;
    this.id = source.id;
    this.loadsAtStart = source.loadsAtStart;
    this.#loaded = loaded;
    this.#wasLoaded = loaded !== null;
  }

  get isLoaded(): boolean {
    return this.#loaded !== null;
  }

  /** It has been loaded once, even if it was unloaded since. */
  get wasLoaded(): boolean {
    return this.#wasLoaded;
  }

  get isReady(): boolean {
    return this.#loaded?.engine.isReady ?? false;
  }

  /** Also of a model that is not loaded. @throws AppError `startup` when its files cannot be read */
  get info(): ModelInfo {
    return this.#loaded?.engine.model ?? (this.#info ??= this.#source.describe());
  }

  /** The engine's state as it was told last; totals go on when the model was unloaded. Null before it ever ran. */
  get stats(): EngineStats | null {
    const told = this.#loaded?.engine.lastStats ?? null;
    return told === null ? this.#stats.last : this.#stats.note(told);
  }

  /** Loads it unless it is there. @throws AppError `startup` */
  load(): Promise<LoadedModel> {
    if (this.#loaded !== null) return Promise.resolve(this.#loaded);
    this.#loading ??= this.#load().finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  async #load(): Promise<LoadedModel> {
    await this.#unloading;
    this.#loaded = await this.#source.load();
    this.#wasLoaded = true;
    if (this.#numUses === 0) this.#unloadWhenIdle();
    return this.#loaded;
  }

  /**
   * The model for one call, loaded if need be; it stays until the call is over.
   * @throws AppError `model_loading` while the engine restarts, or if it cannot be loaded; ClientGoneError if the
   * client does not wait
   */
  async acquire(call: Call): Promise<LoadedModel> {
    clearTimeout(this.#idleTimer);
    this.#numUses++;
    call.onEnd(() => {
      if (--this.#numUses === 0) this.#unloadWhenIdle();
    });
    const model = this.#loaded ?? (await unlessGone(this.#loadForUse(), call.signal));
    if (!model.engine.isReady)
      throw new AppError('model_loading', 'the engine is restarting, try again shortly');
    return model;
  }

  /** Whoever only uses the model did not choose its files: they are no mistake of the request. */
  async #loadForUse(): Promise<LoadedModel> {
    try {
      return await this.load();
    } catch (cause) {
      throw new AppError('model_loading', `the model ${JSON.stringify(this.id)} cannot be loaded`, { cause });
    }
  }

  #unloadWhenIdle(): void {
    const { unloadAfterMs } = this.#source;
    if (unloadAfterMs === null || this.#loaded === null) return;
    this.#idleTimer = setTimeout(() => {
      if (this.#numUses === 0) void this.unload();
    }, unloadAfterMs).unref();
  }

  /** Ends its thread and gives its memory back. */
  async unload(): Promise<void> {
    clearTimeout(this.#idleTimer);
    await this.#loading?.catch(() => undefined);
    const model = this.#loaded;
    if (model === null) return;
    const { lastStats } = model.engine;
    if (lastStats !== null) this.#stats.note(lastStats);
    this.#stats.carry();
    this.#loaded = null;
    this.#unloading = model.engine.close();
    await this.#unloading;
  }
}

/** The promise's value, or a ClientGoneError as soon as the signal is aborted. */
async function unlessGone<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort: () => void = () => undefined;
  const gone = new Promise<never>((_, reject) => {
    onAbort = () => {
      reject(new ClientGoneError('the client closed the connection'));
    };
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort);
  });
  try {
    return await Promise.race([promise, gone]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    gone.catch(() => undefined);
  }
}
