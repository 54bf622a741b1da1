/** Models by name: loaded at the start or when first used, shared while they load, unloaded when idle. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { AppError } from '../../src/errors.ts';
import type { LoadedModel } from '../../src/server/model.ts';
import { ModelPool } from '../../src/server/model-pool.ts';
import { ClientGoneError } from '../../src/server/generation-job.ts';
import type { Call } from '../../src/server/operation.ts';
import { RequestRecord } from '../../src/server/request-record.ts';
import { ServedModel } from '../../src/server/served-model.ts';
import type { ModelSource } from '../../src/server/served-model.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

/** A source whose loads end when told to. */
class Source implements ModelSource {
  readonly id: string;
  readonly loadsAtStart: boolean;
  readonly unloadAfterMs: number | null;
  readonly engines: ScriptedEngine[] = [];
  numLoads = 0;
  #settle: ((error?: Error) => void)[] = [];

  constructor(id: string, { loadsAtStart = false, unloadAfterMs = null as number | null } = {}) {
    this.id = id;
    this.loadsAtStart = loadsAtStart;
    this.unloadAfterMs = unloadAfterMs;
  }

  describe() {
    return new ScriptedEngine(saying([300])).model;
  }

  load(): Promise<LoadedModel> {
    this.numLoads++;
    return new Promise((resolve, reject) => {
      this.#settle.push((error) => {
        if (error !== undefined) {
          reject(error);
          return;
        }
        const engine = new ScriptedEngine(saying([300]));
        this.engines.push(engine);
        resolve({ id: this.id, engine } as unknown as LoadedModel);
      });
    });
  }

  async loaded(error?: Error): Promise<void> {
    await vi.waitFor(() => {
      expect(this.#settle).toHaveLength(1);
    });
    this.#settle.shift()?.(error);
    await new Promise(setImmediate);
  }
}

function newCall(signal = new AbortController().signal): { call: Call; end: () => void } {
  const record = new RequestRecord();
  const call: Call = {
    requestId: 'r',
    signal,
    record,
    pruningHeader: undefined,
    client: null,
    onEnd: (release) => {
      record.onEnd(release);
    },
  };
  return {
    call,
    end: () => {
      record.end();
    },
  };
}

const code = (run: () => unknown): string | null => {
  try {
    run();
    return null;
  } catch (error) {
    if (error instanceof AppError) return error.errorCode;
    throw error;
  }
};

describe('the pool', () => {
  test('is open once what loads at the start has been loaded', async () => {
    const first = new Source('first', { loadsAtStart: true });
    const second = new Source('second');
    const pool = new ModelPool([new ServedModel(first), new ServedModel(second)]);
    expect(
      code(() => {
        pool.checkReady();
      }),
    ).toBe('model_loading');
    const loading = pool.load();
    await first.loaded();
    await loading;
    expect(
      code(() => {
        pool.checkReady();
      }),
    ).toBe(null);
    expect(second.numLoads).toBe(0);
    pool.startDraining();
    expect(
      code(() => {
        pool.checkOpen();
      }),
    ).toBe('draining');
  });

  test('knows its models by name, and the default where there is one', () => {
    const models = ['a', 'b'].map((id) => new ServedModel(new Source(id)));
    const pool = new ModelPool(models);
    expect(pool.find('b').id).toBe('b');
    expect(() => pool.find('c')).toThrow('the model "c" does not exist; this server has "a", "b"');
    expect(() => pool.find(null)).toThrow('model: expected one of "a", "b", got nothing');
    expect(new ModelPool(models, 'b').find(undefined).id).toBe('b');
    expect(new ModelPool(models.slice(0, 1)).find(null).id).toBe('a');
    expect([pool.defaultId, new ModelPool(models, 'b').defaultId]).toEqual(['', 'b']);
  });
});

describe('a model that loads when first used', () => {
  test('is loaded once for all who ask while it loads', async () => {
    const source = new Source('m');
    const pool = new ModelPool([new ServedModel(source)]);
    const [one, two] = [newCall(), newCall()];
    const both = Promise.all([pool.acquire('m', one.call), pool.acquire('m', two.call)]);
    await source.loaded();
    const [a, b] = await both;
    expect(a).toBe(b);
    expect(source.numLoads).toBe(1);
    expect(one.call.record.model).toBe('m');
  });

  test('that cannot be loaded is no fault of the request, and is tried again', async () => {
    const source = new Source('m');
    const pool = new ModelPool([new ServedModel(source)]);
    const failing = expect(pool.acquire('m', newCall().call)).rejects.toMatchObject({
      errorCode: 'model_loading',
      message: 'the model "m" cannot be loaded',
    });
    await source.loaded(new AppError('startup', 'broken file'));
    await failing;
    const next = pool.acquire('m', newCall().call);
    await source.loaded();
    expect((await next).id).toBe('m');
  });

  test('a client that leaves does not wait for it', async () => {
    const source = new Source('m');
    const pool = new ModelPool([new ServedModel(source)]);
    const left = new AbortController();
    const waiting = pool.acquire('m', newCall(left.signal).call);
    left.abort();
    await expect(waiting).rejects.toThrow(ClientGoneError);
    await source.loaded();
    expect(pool.models[0]?.isLoaded).toBe(true);
  });

  test('an engine that restarts takes no work', async () => {
    const source = new Source('m');
    const pool = new ModelPool([new ServedModel(source)]);
    const first = pool.acquire('m', newCall().call);
    await source.loaded();
    await first;
    const [engine] = source.engines;
    if (engine !== undefined) engine.isReady = false;
    expect(
      code(() => {
        pool.checkReady();
      }),
    ).toBe('model_loading');
    expect(
      code(() => {
        pool.checkOpen();
      }),
    ).toBe(null);
    await expect(pool.acquire('m', newCall().call)).rejects.toMatchObject({ errorCode: 'model_loading' });
  });
});

describe('unloading', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  test('after the idle time, never while a request holds it, and loaded again when used', async () => {
    const source = new Source('m', { unloadAfterMs: 1000 });
    const model = new ServedModel(source);
    const pool = new ModelPool([model]);
    const first = newCall();
    const second = newCall();
    const loading = pool.acquire('m', first.call);
    await source.loaded();
    await loading;
    await pool.acquire('m', second.call);
    first.end();
    await vi.advanceTimersByTimeAsync(5000);
    expect(model.isLoaded).toBe(true);
    second.end();
    await vi.advanceTimersByTimeAsync(999);
    expect(model.isLoaded).toBe(true);
    const third = newCall();
    await pool.acquire('m', third.call);
    third.end();
    await vi.advanceTimersByTimeAsync(999);
    expect(model.isLoaded).toBe(true);
    await vi.advanceTimersByTimeAsync(1);
    expect(model.isLoaded).toBe(false);
    expect(model.wasLoaded).toBe(true);
    expect(model.info.contextLength).toBeGreaterThan(0);
    const again = pool.acquire('m', newCall().call);
    await source.loaded();
    expect(await again).toMatchObject({ id: 'm' });
    expect(source.numLoads).toBe(2);
  });

  test('totals go on over it, and gauges fall to nothing', async () => {
    const source = new Source('m', { unloadAfterMs: 10 });
    const model = new ServedModel(source);
    const loading = model.load();
    await source.loaded();
    await loading;
    const stats = { ...STATS, promptTokens: 5, running: 1, kvBytes: 9 };
    const [engine] = source.engines;
    Object.defineProperty(engine, 'lastStats', { value: stats });
    expect(model.stats).toEqual(stats);
    await vi.advanceTimersByTimeAsync(10);
    expect(model.isLoaded).toBe(false);
    expect(model.stats).toMatchObject({ promptTokens: 5, running: 0, kvBytes: 0 });
    const again = model.load();
    await source.loaded();
    await again;
    Object.defineProperty(source.engines[1], 'lastStats', { value: { ...STATS, promptTokens: 2 } });
    expect(model.stats).toMatchObject({ promptTokens: 7 });
  });
});

const STATS = {
  running: 0,
  waiting: 0,
  parked: 0,
  kvBytes: 0,
  kvBytesByKind: { dense: 0, retrieval: 0, streaming: 0, pruned: 0 },
  prefixCacheBytes: 0,
  kvLimitBytes: 100,
  kvLimitTokens: 10,
  preemptions: 0,
  promptTokens: 0,
  cachedTokens: 0,
  generatedTokens: 0,
};
