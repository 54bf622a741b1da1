/** What needs a real socket: clients that leave or read slowly, limits while reading, draining, bad requests. */
import { request } from 'node:http';
import { connect } from 'node:net';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../src/runtime/protocol.ts';
import { ScriptedEngine, done, finished, token } from './support/scripted-engine.ts';
import { startDemoEngine, startLiveServer } from './support/live.ts';
import type { LiveServer } from './support/live.ts';

const CHAT = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'Tell me of red' }];
/** Runs long enough to be caught at work: thousands of turns. */
const endless = { messages, max_tokens: 6000, ignore_eos: true };

let server: LiveServer;
let engine: Engine;
beforeAll(async () => {
  engine = await startDemoEngine();
  server = await startLiveServer({ 'limits.body_bytes': '100000' }, engine);
});
afterAll(async () => {
  await server.close();
});

const isIdle = (stats: { running: number; waiting: number; kvBytes: number }) =>
  stats.running === 0 && stats.waiting === 0 && stats.kvBytes === 0;

describe('a client that leaves frees its sequence', () => {
  test.each([false, true])('while decoding, stream: %s', async (stream) => {
    const abort = new AbortController();
    const reply = server.post(CHAT, { ...endless, stream }, { signal: abort.signal });
    reply.catch(() => undefined);
    await server.until(({ running, kvBytes }) => running === 1 && kvBytes > 0);
    if (stream) await (await reply).body?.getReader().read();
    abort.abort();
    await server.until(isIdle);
    await expect
      .poll(() => server.log().at(-1), { timeout: 30_000 })
      .toMatchObject({ path: CHAT, cancelled: true });
  });

  test('while prefilling', async () => {
    const abort = new AbortController();
    const content = 'The code of red is nine. '.repeat(700);
    const reply = server.post(
      CHAT,
      { messages: [{ role: 'user', content }], stream: true },
      { signal: abort.signal },
    );
    reply.catch(() => undefined);
    await server.until(({ running }) => running === 1);
    abort.abort();
    await server.until(isIdle);
  });

  test('while queued, and every choice and prompt of it', async () => {
    const aborts = Array.from({ length: 4 }, () => new AbortController());
    for (const { signal } of aborts) server.post(CHAT, endless, { signal }).catch(() => undefined);
    await server.until(({ running }) => running === 4);
    const abort = new AbortController();
    const body = { prompt: ['a', 'b'], n: 2, max_tokens: 1000, stream: true };
    server.post('/v1/completions', body, { signal: abort.signal }).catch(() => undefined);
    await server.until(({ waiting }) => waiting >= 2);
    abort.abort();
    await server.until(({ running, waiting }) => running === 4 && waiting === 0);
    for (const each of aborts) each.abort();
    await server.until(isIdle);
  });

  test('max_time_ms frees it too', async () => {
    const response = await server.post(CHAT, { ...endless, max_time_ms: 150 });
    expect(response.status).toBe(504);
    await server.until(isIdle);
  });
});

test('a reader that stalls does not make the server read ahead of it', async () => {
  let numMade = 0;
  const scripted = new ScriptedEngine(
    async function* (input) {
      for (; numMade < 100_000; numMade++) {
        yield token(300 + (numMade % 7));
        if (numMade % 100 === 0) await new Promise(setImmediate);
      }
      yield finished('length');
      yield done(input, numMade);
    },
    { contextLength: 200_000 },
  );
  const own = await startLiveServer({}, scripted);
  try {
    const outgoing = request(`${own.listener.url}${CHAT}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
    });
    outgoing.end(JSON.stringify({ messages, max_tokens: 100_000, stream: true }));
    const [incoming] = (await once(outgoing, 'response')) as [NodeJS.ReadableStream & { destroy(): void }];
    incoming.pause();
    let whenLastSeen = -1;
    while (numMade !== whenLastSeen) {
      whenLastSeen = numMade;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    expect(numMade).toBeLessThan(100_000);
    incoming.destroy();
    await expect.poll(() => scripted.cancelled.length, { timeout: 30_000 }).toBe(1);
  } finally {
    await own.close();
  }
});

describe('the body limit while reading', () => {
  async function sendChunks(
    numChunks: number,
    announced?: number,
  ): Promise<{ status: number; text: string }> {
    const headers = {
      'content-type': 'application/json',
      ...(announced !== undefined && { 'content-length': announced }),
    };
    const outgoing = request(`${server.listener.url}${CHAT}`, { method: 'POST', headers });
    outgoing.on('error', () => undefined);
    const reply = once(outgoing, 'response') as Promise<[NodeJS.ReadableStream & { statusCode: number }]>;
    outgoing.write('{"x":"');
    for (let i = 0; i < numChunks && !outgoing.destroyed; i++) outgoing.write('y'.repeat(10_000));
    const [incoming] = await reply;
    let text = '';
    for await (const chunk of incoming) text += String(chunk);
    outgoing.destroy();
    return { status: incoming.statusCode, text };
  }

  test('a body without an announced length ends at the limit, before its end', async () => {
    const { status, text } = await sendChunks(20);
    expect(status).toBe(413);
    expect(JSON.parse(text)).toMatchObject({ error: { code: 'body_too_large' } });
  });

  test('an announced length over the limit is refused before the body is sent', async () => {
    expect(await sendChunks(0, 100_001)).toMatchObject({ status: 413 });
  });
});

test('a half-sent body that breaks off starts nothing', async () => {
  const before = await engine.stats();
  const socket = connect(Number(new URL(server.listener.url).port), '127.0.0.1');
  socket.write(
    `POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"messages":`,
  );
  await new Promise((resolve) => setTimeout(resolve, 50));
  socket.destroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect((await engine.stats()).promptTokens).toBe(before.promptTokens);
  expect((await fetch(`${server.listener.url}/ready`)).status).toBe(200);
});

test.each([
  ['GET / HTTP/1.1\r\nHost: a b\r\n\r\n', 400],
  ['GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n', 400],
  ['GET /%0a%1b[31mforged HTTP/1.1\r\nHost: localhost\r\n\r\n', 404],
])('odd request %j', async (text, status) => {
  const socket = connect(Number(new URL(server.listener.url).port), '127.0.0.1');
  socket.write(text);
  const [data] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  expect(data.toString()).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(data.toString()).toContain('"error":{"message"');
  expect(data.toString()).toMatch(/x-request-id: /i);
});

describe('draining', () => {
  /** Says one token, then waits for `release`. */
  function holding() {
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    const scripted = new ScriptedEngine(async function* (input) {
      yield token(300);
      await held;
      yield finished();
      yield done(input, 1);
    });
    return { scripted, release };
  }

  test.each([false, true])('running work ends, new work gets 503, stream: %s', async (stream) => {
    const { scripted, release } = holding();
    const own = await startLiveServer({}, scripted);
    const running = own.post(CHAT, { messages, stream });
    await expect.poll(() => scripted.requests.length, { timeout: 30_000 }).toBe(1);
    const drained = own.listener.drain(10_000);
    const refused = await own.post(CHAT, { messages });
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: 'draining' } });
    expect((await fetch(`${own.listener.url}/ready`)).status).toBe(503);
    expect((await fetch(`${own.listener.url}/health`)).status).toBe(200);
    release();
    const text = await (await running).text();
    expect(text).toContain(stream ? '[DONE]' : '"finish_reason":"stop"');
    await drained;
    await expect(fetch(`${own.listener.url}/health`)).rejects.toThrow();
  });

  test('the timeout ends what is still running', async () => {
    const { scripted } = holding();
    const own = await startLiveServer({}, scripted);
    const running = own.post(CHAT, { messages });
    running.catch(() => undefined);
    await expect.poll(() => scripted.requests.length, { timeout: 30_000 }).toBe(1);
    await own.listener.drain(50);
    await expect(running).rejects.toThrow();
    await expect.poll(() => scripted.cancelled.length, { timeout: 30_000 }).toBe(1);
  });
});
