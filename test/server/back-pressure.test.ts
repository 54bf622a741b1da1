/** Readers that stop reading, on real sockets: they pause themselves, hold up nobody, and leave nothing behind. */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { EngineStats } from '../../src/runtime/protocol.ts';
import { startLiveServer } from './support/live.ts';
import type { LiveServer } from './support/live.ts';

const CHAT = '/v1/chat/completions';
const NUM_STALLED = 12;
const MAX_TOKENS = 4000;
/** Stands on every chunk: the kernel's buffers, megabytes on a loopback socket, are full after some dozens of tokens. */
const LONG_NAME = 'm'.repeat(2 ** 18);
const messages = [{ role: 'user', content: 'Tell me of red' }];

let server: LiveServer;
beforeAll(async () => {
  const flags = { 'queue.max_running': '4', 'queue.max_requests': '12' };
  server = await startLiveServer(flags, undefined, LONG_NAME);
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await server.until(isEmpty);
});
afterAll(async () => {
  await server.close();
});

const sockets: Socket[] = [];

/** Sends a request and reads nothing of its reply. */
function stall(body: object): Socket {
  const port = Number(new URL(server.listener.url).port);
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.pause();
  sockets.push(socket);
  const text = JSON.stringify({ messages, stream: true, ignore_eos: true, temperature: 0, ...body });
  const head = `POST ${CHAT} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\nConnection: close\r\n`;
  socket.write(`${head}Content-Length: ${text.length}\r\n\r\n${text}`);
  return socket;
}

const isEmpty = (stats: EngineStats) =>
  stats.running === 0 && stats.waiting === 0 && stats.parked === 0 && stats.kvBytes === 0;

/** Waits until the engine has nothing to do although requests are there. */
async function untilResting(): Promise<EngineStats> {
  for (let before = -1; ;) {
    const stats = await server.engine.stats();
    if (stats.generatedTokens === before && stats.waiting === 0 && stats.running > 0) return stats;
    before = stats.generatedTokens;
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

/** What the server says of a request that never ends by itself, read at once. */
async function healthy(stream: boolean): Promise<string> {
  const response = await server.post(CHAT, { messages, max_tokens: 12, stream, n: 2, ignore_eos: true });
  expect(response.status).toBe(200);
  return response.text();
}

test('stalled readers: memory is bounded, others are answered, and all of it comes back', async () => {
  for (let i = 0; i < NUM_STALLED; i++) stall({ max_tokens: MAX_TOKENS });
  const stats = await untilResting();
  expect(stats.running + stats.parked).toBe(NUM_STALLED);
  expect(stats.running).toBeLessThanOrEqual(4);
  // What lies in sockets and queues: not what was asked for.
  expect(stats.generatedTokens).toBeLessThan((NUM_STALLED * MAX_TOKENS) / 5);
  const replies = await Promise.all([true, false, true, false].map(healthy));
  for (const reply of replies) expect(reply.match(/"finish_reason":"length"/g)).toHaveLength(2);
  // They are still requests of the server, which takes 16.
  for (let i = 0; i < 4; i++) stall({ max_tokens: MAX_TOKENS });
  await server.until(({ running, waiting, parked }) => running + waiting + parked === NUM_STALLED + 4);
  const refused = await server.post(CHAT, { messages });
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
  expect(await refused.json()).toMatchObject({ error: { type: 'rate_limit_error', code: 'queue_full' } });
  for (const socket of sockets) socket.destroy();
  await server.until(isEmpty);
  await expect
    .poll(() => server.engine.lastStats, { timeout: 10_000 })
    .toMatchObject({
      running: 0,
      waiting: 0,
      parked: 0,
    });
  expect(await healthy(true)).toContain('[DONE]');
});

test('who reads on gets all of it', async () => {
  const socket = stall({ max_tokens: 150 });
  const { parked, running } = await untilResting();
  expect(parked + running).toBe(1);
  // Somebody else takes its place in the meantime.
  await Promise.all([1, 2, 3, 4, 5, 6].map(() => healthy(false)));
  let text = '';
  for await (const piece of socket) text += String(piece);
  expect(text).toContain('data: [DONE]');
  expect(text.match(/"content":"/g)?.length).toBeGreaterThan(1);
  expect(text.match(/"finish_reason":"length"/g)).toHaveLength(1);
  const alone = await server.post(CHAT, { messages, ignore_eos: true, temperature: 0, max_tokens: 150 });
  const { choices } = (await alone.json()) as { choices: { message: { content: string } }[] };
  expect(contentOf(text)).toBe(choices[0]?.message.content);
  await server.until(isEmpty);
});

/** The text of all chunks of a raw reply. */
function contentOf(raw: string): string {
  const body = raw.replaceAll(/\r\n[0-9a-f]+\r\n/g, '');
  return [...body.matchAll(/^data: (\{.*\})$/gm)]
    .map(([, json = '']) => JSON.parse(json) as { choices: { delta: { content?: string } }[] })
    .map(({ choices }) => choices[0]?.delta.content ?? '')
    .join('');
}

test('the deadline ends a request whose reader has stalled', async () => {
  const { promptTokens: before } = await server.engine.stats();
  const socket = stall({ max_tokens: MAX_TOKENS, max_time_ms: 3000 });
  await server.until(({ promptTokens }) => promptTokens > before);
  await server.until(isEmpty);
  let text = '';
  for await (const piece of socket) text += String(piece);
  expect(text).toContain('"code":"timeout"');
  expect(text).not.toContain('[DONE]');
});

test('the deadline ends a request that waits', async () => {
  for (let i = 0; i < 4; i++) stall({ max_tokens: MAX_TOKENS });
  await server.until(({ running }) => running === 4);
  const late = await server.post(CHAT, { messages, max_tokens: 10, max_time_ms: 1, priority: 9 });
  expect(late.status).toBe(504);
});
