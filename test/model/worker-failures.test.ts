/** What happens when the engine's thread dies or cannot start. */
import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { collect, settled, start, tokensOf, until, WORKERS } from './support/client.ts';
import { makeRequest, STORIES } from './support/engine.ts';

const crash = () => makeRequest([1], { id: `crash-${Math.random()}` });
const endless = () => makeRequest([1], { maxTokens: 500 });

describe('a crash', () => {
  test('ends what ran, is reported, and the engine comes back', async () => {
    const crashes: Error[] = [];
    const engine = await start({ workerUrl: WORKERS.crashing, onCrash: (error) => crashes.push(error) });
    const before = tokensOf(await collect(engine, makeRequest([1, 403])));
    for (let round = 1; round <= 2; round++) {
      const running = [endless(), endless()].map((request) => collect(engine, request));
      await until(async () => (await engine.stats()).running === 2, 'two streams');
      const fatal = await collect(engine, crash());
      for (const events of [fatal, ...(await Promise.all(running))])
        expect(events.at(-1)).toMatchObject({ type: 'error', code: 'internal' });
      expect(engine.isReady).toBe(false);
      expect(crashes.map((error) => error.message)).toEqual(Array(round).fill('crashed on purpose'));
      expect(await collect(engine, endless())).toMatchObject([{ type: 'error', code: 'model_loading' }]);
      expect(await engine.stats()).toBeDefined();
      await until(() => engine.isReady, 'a restart');
      expect(tokensOf(await collect(engine, makeRequest([1, 403])))).toEqual(before);
      expect((await settled(engine)).kvBytes).toBe(0);
    }
    await engine.close();
  });

  test('leaves no question unanswered', async () => {
    const engine = await start({ workerUrl: WORKERS.silent });
    const stats = engine.stats();
    const events = await collect(engine, endless());
    expect(events).toMatchObject([{ type: 'error', code: 'internal' }]);
    await expect(stats).rejects.toThrow(AppError);
    await expect(engine.stats()).rejects.toThrow(AppError);
    await engine.close();
  });

  test.each([
    ['at once', 0],
    ['while the model is loaded again', 150],
  ])('closed %s, the engine stays down', async (_, delayMs) => {
    const engine = await start({ workerUrl: WORKERS.crashing });
    await collect(engine, crash());
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    await engine.close();
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect(engine.isReady).toBe(false);
    const threads = process
      .getActiveResourcesInfo()
      .filter((name) => name === 'MessagePort' || name === 'Worker');
    expect(threads.length).toBeLessThanOrEqual(threadsBefore);
  });
  let threadsBefore: number;
  beforeAll(() => {
    threadsBefore = process
      .getActiveResourcesInfo()
      .filter((name) => name === 'MessagePort' || name === 'Worker').length;
  });
});

describe('a model that cannot be loaded', () => {
  let scratch: string;
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'coppice-broken-'));
  });
  afterAll(() => {
    rmSync(scratch, { recursive: true });
  });

  /** A copy of a good model, changed. */
  function brokenModel(name: string, change: (dir: string) => void): string {
    const dir = join(scratch, name);
    cpSync(STORIES, dir, { recursive: true });
    change(dir);
    return dir;
  }

  function editConfig(dir: string, changes: Record<string, unknown>): void {
    const file = join(dir, 'config.json');
    const config = JSON.parse(readFileSync(file, 'utf8')) as object;
    writeFileSync(file, JSON.stringify({ ...config, ...changes }));
  }

  const BREAKS: Record<string, (dir: string) => void> = {
    'no folder': (dir) => {
      rmSync(dir, { recursive: true });
    },
    'no config': (dir) => {
      rmSync(join(dir, 'config.json'));
    },
    'a config that is no JSON': (dir) => {
      writeFileSync(join(dir, 'config.json'), '{"model_type": "llama",');
    },
    'a config without sizes': (dir) => {
      writeFileSync(join(dir, 'config.json'), '{"model_type": "llama"}');
    },
    'an unknown family': (dir) => {
      editConfig(dir, { model_type: 'gpt9' });
    },
    'an unknown rotary embedding': (dir) => {
      editConfig(dir, { rope_scaling: { type: 'spiral', factor: 2 } });
    },
    'sizes that are not those of the weights': (dir) => {
      editConfig(dir, { hidden_size: 128 });
    },
    'no weights': (dir) => {
      rmSync(join(dir, 'model.safetensors'));
    },
    'weights cut off': (dir) => {
      truncateSync(join(dir, 'model.safetensors'), 500_000);
    },
    'weights cut off in the header': (dir) => {
      truncateSync(join(dir, 'model.safetensors'), 100);
    },
    'empty weights': (dir) => {
      truncateSync(join(dir, 'model.safetensors'), 0);
    },
    'weights that are something else': (dir) => {
      writeFileSync(
        join(dir, 'model.safetensors'),
        'version https://git-lfs.github.com/spec/v1\noid sha256:0\n',
      );
    },
  };

  test.each(Object.keys(BREAKS))('%s is a startup error that names what is wrong', async (name) => {
    const modelDir = brokenModel(name.replaceAll(' ', '-'), BREAKS[name]!);
    const error: unknown = await start({ modelDir }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(AppError);
    expect(error).toMatchObject({ errorCode: 'startup' });
    expect((error as AppError).message).toMatch(/broken-\w+\/|config\.json|tensor model/);
    expect((error as AppError).message).not.toContain('invariant');
  });

  test('a cache folder that cannot be made', async () => {
    const file = join(scratch, 'a-file');
    writeFileSync(file, '');
    const error: unknown = await start({ cacheDir: join(file, 'cache') }).catch((e: unknown) => e);
    expect(error).toMatchObject({ errorCode: 'startup', message: expect.stringContaining(file) as string });
  });

  test('a thread that is no engine', async () => {
    const workerUrl = new URL('test/fixtures/workers/missing.mjs', WORKERS.real);
    await expect(start({ workerUrl })).rejects.toMatchObject({ errorCode: 'startup' });
  });
});
