/** Starts the compiled engine in its own thread, and waits for its states. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { startEngine, type StartOptions } from '../../../src/runtime/engine-client.ts';
import type { Engine, EngineEvent, EngineStats, GenerationRequest } from '../../../src/runtime/protocol.ts';
import { STORIES } from './engine.ts';

const ROOT = new URL('../../../', import.meta.url);
export const WORKERS = {
  real: new URL('dist/runtime/worker.js', ROOT),
  crashing: new URL('test/fixtures/workers/crashing.mjs', ROOT),
  silent: new URL('test/fixtures/workers/silent.mjs', ROOT),
};

const cacheDir = mkdtempSync(join(tmpdir(), 'coppice-worker-'));
afterAll(() => {
  rmSync(cacheDir, { recursive: true, force: true });
});

export function start(options: Partial<StartOptions> = {}): Promise<Engine> {
  return startEngine({
    modelDir: STORIES,
    precision: 'fp32',
    threads: 1,
    cacheDir,
    kvMaxBytes: 2 ** 24,
    prefixCacheMaxBytes: 2 ** 22,
    maxRunning: 8,
    workerUrl: WORKERS.real,
    ...options,
  });
}

/** All events of a request, to its end. */
export async function collect(
  engine: Engine,
  request: GenerationRequest,
  signal?: AbortSignal,
): Promise<EngineEvent[]> {
  const events: EngineEvent[] = [];
  for await (const event of engine.generate(request, signal)) events.push(event);
  return events;
}

export function tokensOf(events: readonly EngineEvent[], choice = 0): number[] {
  return events.flatMap((event) =>
    event.type === 'token' && event.choice === choice ? [event.tokenId] : [],
  );
}

export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadlineMs = performance.now() + 45_000;
  while (!(await condition())) {
    if (performance.now() > deadlineMs) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Waits until nothing runs, and gives the state then. */
export async function settled(engine: Engine): Promise<EngineStats> {
  await until(async () => {
    const { running, waiting } = await engine.stats();
    return running + waiting === 0;
  }, 'no request left');
  return engine.stats();
}
