/** A server on a real socket around the real engine with the demo model. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { startEngine } from '../../../src/runtime/engine-client.ts';
import type { StartOptions } from '../../../src/runtime/engine-client.ts';
import type { Engine, EngineStats } from '../../../src/runtime/protocol.ts';
import { listen } from '../../../src/server/listen.ts';
import type { Listener } from '../../../src/server/listen.ts';
import { modelVocabulary, readModel } from '../../../src/server/model.ts';
import { DEMO_MODEL, createContext } from './app.ts';

export interface LiveServer {
  readonly engine: Engine;
  readonly listener: Listener;
  readonly client: OpenAI;
  log(): Record<string, unknown>[];
  post(path: string, body: unknown, init?: RequestInit): Promise<Response>;
  /** Waits until the engine's state satisfies the condition. */
  until(condition: (stats: EngineStats) => boolean): Promise<EngineStats>;
  close(): Promise<void>;
}

/** In a cache folder of its own, so that no graph of an older build is in the way. */
export async function startDemoEngine(options: Partial<StartOptions> = {}): Promise<Engine> {
  const cacheDir = mkdtempSync(join(tmpdir(), 'coppice-server-'));
  const engine = await startEngine({
    modelDir: DEMO_MODEL,
    precision: 'int8',
    threads: 2,
    cacheDir,
    kvMaxBytes: 2 ** 28,
    prefixCacheMaxBytes: 2 ** 26,
    maxRunning: 4,
    vocabulary: () => modelVocabulary(readModel(DEMO_MODEL, 'demo')),
    workerUrl: new URL('../../../dist/runtime/worker.js', import.meta.url),
    ...options,
  });
  rmSync(cacheDir, { recursive: true });
  return engine;
}

/** Around the demo engine, or the one given. */
export async function startLiveServer(
  flags: Record<string, string> = {},
  given?: Engine,
  modelId?: string,
): Promise<LiveServer> {
  const engine = given ?? (await startDemoEngine());
  const { context, log } = createContext(engine, { port: '0', ...flags }, modelId);
  const listener = await listen(context);
  return {
    engine,
    listener,
    log,
    client: new OpenAI({ baseURL: `${listener.url}/v1`, apiKey: 'none', maxRetries: 0 }),
    post: (path, body, init = {}) =>
      fetch(listener.url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        ...init,
      }),
    async until(condition) {
      const deadlineMs = performance.now() + 30_000;
      for (;;) {
        const stats = await engine.stats();
        if (condition(stats)) return stats;
        if (performance.now() > deadlineMs) throw new Error(`not in time: ${JSON.stringify(stats)}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    async close() {
      await listener.drain(0);
      await engine.close();
    },
  };
}
