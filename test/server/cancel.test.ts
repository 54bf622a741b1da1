/** Streams whose clients leave while they wait, prefill or decode, many at a time: all of them come to their end. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { EngineStats } from '../../src/runtime/protocol.ts';
import { startLiveServer } from './support/live.ts';
import type { LiveServer } from './support/live.ts';

const CHAT = '/v1/chat/completions';
/** As many as the server takes: four run, the others wait. */
const NUM_REQUESTS = 40;
const LONG = 'Remember that the key code of the old hammer is 3426. '.repeat(60);

let server: LiveServer;
beforeAll(async () => {
  const flags = { 'queue.max_running': '4', 'queue.max_requests': `${NUM_REQUESTS - 4}` };
  server = await startLiveServer(flags);
});
afterAll(async () => {
  await server.close();
});

const isEmpty = (stats: EngineStats) =>
  stats.running === 0 && stats.waiting === 0 && stats.parked === 0 && stats.kvBytes === 0;

async function gauge(name: string): Promise<number> {
  const page = await (await fetch(`${server.listener.url}/metrics`)).text();
  const [, value] = new RegExp(`^coppice_${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm').exec(page) ?? [];
  return Number(value);
}

/** When a client leaves: at once, with the first progress of its prompt, or after so many chunks of text. */
type Leaving = 'queued' | 'prefill' | 'decode';
const LEAVINGS: readonly Leaving[] = ['decode', 'prefill', 'queued', 'prefill', 'decode'];

/** Reads until it is time to leave. Says in which state it left. */
async function leave(index: number): Promise<Leaving> {
  const abort = new AbortController();
  const wanted = LEAVINGS[index % LEAVINGS.length] ?? 'decode';
  const content = `${index}. ${wanted === 'prefill' ? LONG : 'Tell me of red'}`;
  const body = {
    messages: [{ role: 'user', content }],
    stream: true,
    return_progress: true,
    ignore_eos: true,
    max_tokens: 3000,
    n: 1 + (index % 2),
  };
  const reply = server.post(CHAT, body, { signal: abort.signal });
  if (wanted === 'queued') {
    reply.catch(() => undefined);
    await server.until(({ waiting }) => waiting > 0);
    abort.abort();
    return wanted;
  }
  const text = (await reply).body?.pipeThrough(new TextDecoderStream());
  let read = '';
  for await (const piece of text ?? []) {
    read += piece;
    const numDeltas = read.split('"content":').length - 1;
    if (wanted === 'prefill' ? read.includes('prompt_progress') : numDeltas > 3) break;
  }
  const left = read.includes('"content":') ? 'decode' : 'prefill';
  abort.abort();
  return left;
}

test('waves of clients that leave in every state: gauges return to zero, places and memory too', async () => {
  for (let wave = 0; wave < 3; wave++) {
    const states = await Promise.all(Array.from({ length: NUM_REQUESTS }, (_, i) => leave(i)));
    expect([...new Set(states)].sort()).toEqual(['decode', 'prefill', 'queued']);
    await server.until(isEmpty);
    for (const name of ['requests_running', 'requests_waiting', 'kv_usage_ratio'])
      await expect.poll(() => gauge(name), { timeout: 30_000 }).toBe(0);
  }
  // Whoever left gave back its place in the queue: there is room for as many as at the start.
  const replies = await Promise.all(
    Array.from({ length: NUM_REQUESTS }, () =>
      server.post(CHAT, { messages: [{ role: 'user', content: 'a' }], max_tokens: 2 }),
    ),
  );
  expect([...new Set(replies.map(({ status }) => status))]).toEqual([200]);
  await server.until(isEmpty);
  const lines = server.log().filter(({ path }) => path === CHAT);
  expect(lines.filter(({ cancelled }) => cancelled === true).length).toBeGreaterThan(NUM_REQUESTS);
});
