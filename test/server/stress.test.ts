/** The started program under fifty mixed requests at once, a third of which leave at random times. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { parseEvents, readEvents } from './support/app.ts';

const MAIN = join(import.meta.dirname, '../../dist/main.js');
const NUM_REQUESTS = 50;
/** About 2,000 tokens. */
const LONG = 'Remember that the key code of the old hammer is 3426. '.repeat(100);

let cacheDir: string;
let child: ChildProcess;
let url: string;
const output = { stdout: '', stderr: '' };

beforeAll(async () => {
  cacheDir = mkdtempSync(join(tmpdir(), 'coppice-stress-'));
  const { PATH = '' } = process.env;
  const env = { PATH, COPPICE_CACHE_DIR: cacheDir };
  // So small a prefix cache is full after the first wave: growth from then on would be a leak.
  const args = ['serve', '--port', '0', '--prefix-cache-max-bytes', '16MiB'];
  child = spawn(process.execPath, [MAIN, ...args], { env });
  child.stdout?.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  const ready = /coppice is ready at (http:\S+)\n/;
  await vi.waitUntil(() => ready.test(output.stdout), { timeout: 30_000 });
  // Loading reports its progress there.
  output.stderr = '';
  url = ready.exec(output.stdout)?.[1] ?? '';
});
afterAll(() => {
  child.kill('SIGKILL');
  rmSync(cacheDir, { recursive: true, force: true });
});

type Draw = (below: number) => number;

/** Whole numbers from 0 up to `below`; the same seed gives the same waves. */
function createDraw(seed: number): Draw {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

interface Planned {
  readonly path: string;
  readonly body: Record<string, unknown> & { n: number; stream: boolean };
  /** When the client leaves, in ms after it asked; null = it stays. */
  readonly leavesAfterMs: number | null;
}

/** Every combination of route, streaming, choices and prompt length occurs; who leaves, and when, is drawn. */
function plan(index: number, draw: Draw): Planned {
  const isChat = index % 2 === 0;
  const prompt = `${index}. ${index % 5 === 0 ? LONG : 'The key code of the old hammer is 3426.'} Tell me the key code.`;
  const common = {
    max_tokens: 1 + draw(24),
    n: (index >> 2) % 3 === 0 ? 2 : 1,
    stream: (index >> 1) % 2 === 0,
    ignore_eos: draw(2) === 0,
    temperature: draw(2),
    seed: index,
    stream_options: { include_usage: true },
  };
  const body = isChat
    ? { ...common, messages: [{ role: 'user', content: prompt }] }
    : { ...common, prompt, echo: index % 3 === 0, logprobs: index % 7 === 0 ? 2 : null };
  return {
    path: isChat ? '/v1/chat/completions' : '/v1/completions',
    body,
    // Up to the time that the whole wave takes: queued, in prefill, while decoding, or just over.
    leavesAfterMs: draw(3) === 0 ? draw(3000) : null,
  };
}

interface Choice {
  index: number;
  finish_reason: string | null;
}

/** Whether a complete reply came; throws on one that is wrong. */
async function ask({ path, body, leavesAfterMs }: Planned): Promise<boolean> {
  const abort = new AbortController();
  const timer = leavesAfterMs === null ? undefined : setTimeout(abort.abort.bind(abort), leavesAfterMs);
  try {
    const response = await fetch(url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: abort.signal,
    });
    expect(response.status).toBe(200);
    const objects = body.stream ? await streamed(response) : [await response.json()];
    const finished = (objects as { choices: Choice[] }[])
      .flatMap(({ choices }) => choices)
      .filter((choice) => choice.finish_reason !== null);
    expect(finished.map((choice) => choice.index).sort()).toEqual(
      Array.from({ length: body.n }, (_, i) => i),
    );
    const { usage } = objects.at(-1) as { usage: { prompt_tokens: number; completion_tokens: number } };
    expect(usage.prompt_tokens).toBeGreaterThan(10);
    expect(usage.completion_tokens).toBeLessThanOrEqual(body.n * Number(body.max_tokens));
    return true;
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    return false;
  } finally {
    clearTimeout(timer);
  }
}

async function streamed(response: Response): Promise<unknown[]> {
  const pieces = await readEvents(response);
  expect(pieces.at(-1)).toBe('[DONE]');
  return parseEvents(pieces);
}

/** Asks for both until stopped; how often, and every status that came. */
function watchHealth() {
  let isStopped = false;
  const statuses = new Set<number>();
  let count = 0;
  const done = (async () => {
    while (!isStopped) {
      for (const path of ['/ready', '/health']) statuses.add((await fetch(url + path)).status);
      count++;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  return async () => {
    isStopped = true;
    await done;
    return { statuses: [...statuses], count };
  };
}

async function wave(seed: number): Promise<void> {
  const draw = createDraw(seed);
  const planned = Array.from({ length: NUM_REQUESTS }, (_, i) => plan(i, draw));
  const stop = watchHealth();
  const replies = await Promise.all(planned.map(ask));
  const { statuses, count } = await stop();
  expect(statuses).toEqual([200]);
  expect(count).toBeGreaterThan(10);
  planned.forEach(({ leavesAfterMs }, i) => {
    if (leavesAfterMs === null) expect(replies[i]).toBe(true);
  });
  expect(replies).toContain(false);
  // Who left before the request was read has no line.
  const numReplies = replies.filter(Boolean).length;
  await expect.poll(() => logLines().length, { timeout: 10_000 }).toBeGreaterThanOrEqual(numReplies);
}

/** The log's number for the level `info`. */
const INFO = 30;

interface LogLine {
  level: number;
  path?: string;
  status?: number;
  error?: string;
  cancelled?: boolean;
}

/** Whole lines of this wave. */
function allLines(): LogLine[] {
  const lines = output.stdout.split('\n').filter((line) => line.startsWith('{') && line.endsWith('}'));
  return lines.map((line) => JSON.parse(line) as LogLine);
}

/** Of generation requests: one line each, written when nothing of the request runs any more. */
function logLines(): LogLine[] {
  return allLines().filter(({ path }) => path?.startsWith('/v1/') === true);
}

/** Of the server's process. */
function residentMiB(): number {
  const status = readFileSync(`/proc/${child.pid ?? 0}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
}

test('two waves: whoever stays is answered, the server stays ready, nothing is left behind', async () => {
  const memoryMiB: number[] = [];
  for (const seed of [1, 2]) {
    output.stdout = '';
    await wave(seed);
    expect(allLines().filter(({ level, error }) => level > INFO || error !== undefined)).toEqual([]);
    expect(logLines().some(({ cancelled }) => cancelled === true)).toBe(true);
    memoryMiB.push(residentMiB());
  }
  const [first = 0, second = 0] = memoryMiB;
  expect(second).toBeLessThan(first * 1.2);
  // Alone on the engine: nothing that runs unseen takes its turns or its memory.
  expect(await ask({ ...plan(0, createDraw(9)), leavesAfterMs: null })).toBe(true);
  expect(output.stderr).toBe('');
  const startedMs = performance.now();
  child.kill('SIGTERM');
  const [code] = (await once(child, 'exit')) as [number | null];
  expect(code).toBe(0);
  // A request still running would have held it up for the whole of `shutdown.timeout_ms`.
  expect(performance.now() - startedMs).toBeLessThan(5000);
});
