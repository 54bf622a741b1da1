/** WebSockets on a real socket around the real engine: lanes, cancels, limits, close codes. */
import { request as httpRequest } from 'node:http';
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, test } from 'vitest';
import type { Engine } from '../../../src/runtime/protocol.ts';
import { startDemoEngine, startLiveServer } from '../support/live.ts';
import type { LiveServer } from '../support/live.ts';
import { SocketClient, refusal } from '../support/socket-client.ts';
import type { Heard } from '../support/socket-client.ts';

const CHAT = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'What does the keeper of the tower hold?' }];

let engine: Engine;
let server: LiveServer;

beforeAll(async () => {
  engine = await startDemoEngine();
  server = await startLiveServer({}, engine);
});

afterAll(() => server.close());

function create(streamId: string | null, fields: object = {}) {
  const lane = streamId === null ? {} : { stream_id: streamId };
  return { type: 'chat.completion.create', ...lane, messages, max_tokens: 8, temperature: 0, ...fields };
}

const endless = { max_tokens: 4000, ignore_eos: true };

function text(heard: readonly Heard[]): string {
  return heard
    .flatMap((chunk) => (chunk['choices'] ?? []) as { delta: { content?: string } }[])
    .map(({ delta }) => delta.content ?? '')
    .join('');
}

const isDone = (streamId?: string) => (heard: Heard) =>
  heard.type === 'chat.completion.done' && heard.stream_id === streamId;
const isError = (heard: Heard) => heard.type === 'error';
const isFirst = (streamId: string) => (heard: Heard) => heard.stream_id === streamId && 'choices' in heard;
const finishReason = (heard: readonly Heard[]) =>
  heard
    .flatMap((chunk) => (chunk['choices'] ?? []) as { finish_reason: string | null }[])
    .map(({ finish_reason: reason }) => reason)
    .filter((reason) => reason !== null);

describe('chat over a WebSocket', () => {
  let client: SocketClient;
  beforeEach(async () => {
    client = await SocketClient.open(server.listener.url + CHAT);
  });
  afterEach(() => client.close());

  test('sends the chunks that server-sent events carry, then done', async () => {
    const body = {
      messages,
      max_tokens: 8,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    };
    const sse = await (await server.post(CHAT, body)).text();
    const chunks = sse
      .split('\n\n')
      .filter((piece) => piece.startsWith('data: {'))
      .map((piece) => JSON.parse(piece.slice(6)) as Heard);
    client.send(create('a', { stream_options: { include_usage: true }, pruning: 'balanced' }));
    await client.until(isDone('a'));
    const heard = client.lane('a').slice(0, -1);
    expect(text(heard).length).toBeGreaterThan(0);
    expect(heard.map((chunk) => Object.keys(chunk).sort()).at(0)).toEqual(
      [...Object.keys(chunks[0] ?? {}), 'stream_id'].sort(),
    );
    expect(heard.at(-1)).toMatchObject({
      usage: { prompt_tokens: expect.any(Number) as number },
      pruning: { preset: 'balanced' },
    });
    expect(client.heard.at(-1)).toEqual({ type: 'chat.completion.done', stream_id: 'a' });
  });

  test('a dense request says what it says over HTTP', async () => {
    const body = { messages, max_tokens: 12, temperature: 0 };
    const whole = (await (await server.post(CHAT, body)).json()) as {
      choices: { message: { content: string } }[];
    };
    client.send(create(null, { max_tokens: 12 }));
    await client.until(isDone());
    expect(text(client.heard)).toBe(whole.choices[0]?.message.content);
    expect(client.heard.every((heard) => !('stream_id' in heard))).toBe(true);
  });

  test('a lane is first in, first out; lanes go side by side', async () => {
    client.send(create('slow', endless));
    await client.until(isFirst('slow'));
    client.send(create('slow', { max_tokens: 3 }));
    client.send(create('fast', { max_tokens: 3 }));
    await client.until(isDone('fast'));
    expect(client.heard.some(isDone('slow'))).toBe(false);
    client.send({ type: 'chat.completion.cancel', stream_id: 'slow' });
    await client.until(isDone('slow'));
    const isSecond = (heard: Heard) =>
      isDone('slow')(heard) && client.lane('slow').filter(isDone('slow')).length === 2;
    await client.until(isSecond);
    const ids = client.lane('slow').flatMap(({ id }) => (typeof id === 'string' ? [id] : []));
    expect(new Set(ids).size).toBe(2);
    expect(ids.indexOf(ids.at(-1) ?? ''), 'no chunk of the second before the end of the first').toBe(
      ids.lastIndexOf(ids[0] ?? '') + 1,
    );
  });

  test('a cancelled stream ends with its text so far, reason stop, usage and done', async () => {
    client.send(create('a', { ...endless, n: 2, stream_options: { include_usage: true } }));
    await client.until(isFirst('a'));
    client.send({ type: 'chat.completion.cancel', stream_id: 'a' });
    await client.until(isDone('a'));
    expect(finishReason(client.heard)).toEqual(['stop', 'stop']);
    expect(client.lane('a').at(-2)).toMatchObject({
      usage: { completion_tokens: expect.any(Number) as number },
    });
    await server.until(({ running, waiting }) => running + waiting === 0);
  });

  test('a cancel right behind its request reaches it', async () => {
    client.send(create('a', endless));
    client.send({ type: 'chat.completion.cancel', stream_id: 'a' });
    await client.until(isDone('a'));
    expect(finishReason(client.heard)).toEqual(['stop']);
  });

  test('a queued request can be cancelled', async () => {
    for (let i = 0; i < 6; i++) client.send(create(`${i}`, endless));
    await server.until(({ running, waiting }) => running === 4 && waiting === 2);
    for (let i = 5; i >= 0; i--) {
      client.send({ type: 'chat.completion.cancel', stream_id: `${i}` });
      await client.until(isDone(`${i}`));
    }
    await server.until(({ running, waiting }) => running + waiting === 0);
  });

  test('names fields that no one reads', async () => {
    client.send(create('a', { prunning: 'balanced' }));
    expect(await client.until(isDone('a'))).toEqual({
      type: 'chat.completion.done',
      stream_id: 'a',
      ignored_fields: ['prunning'],
    });
  });

  test.each([
    ['not JSON', '{"type":', null, null],
    ['no object', '[1]', null, null],
    ['no type', { messages }, null, 'type'],
    ['a type of another path', { type: 'response.create', stream_id: 'x' }, 'x', 'type'],
    ['a bad stream_id', { type: 'chat.completion.create', stream_id: 'a b' }, null, 'stream_id'],
    ['a long stream_id', { type: 'chat.completion.create', stream_id: 'a'.repeat(257) }, null, 'stream_id'],
    ['no messages', { type: 'chat.completion.create', stream_id: 'x' }, 'x', 'messages'],
    ['an unknown policy', create('x', { pruning: { kv: 'nothing' } }), 'x', 'pruning.kv.policy'],
  ])('survives a bad frame: %s', async (_, frame, streamId, param) => {
    client.send(frame);
    const error = await client.until(isError);
    expect(error).toMatchObject({ status: 400, error: { type: 'invalid_request_error', param, code: null } });
    expect(error.stream_id ?? null).toBe(streamId);
    expect(client.heard.some(({ type }) => type === 'chat.completion.done')).toBe(false);
    client.send(create('next', { max_tokens: 2 }));
    await client.until(isDone('next'));
  });

  test('cancelling what does not run is an error', async () => {
    client.send({ type: 'chat.completion.cancel', stream_id: 'ghost' });
    expect(await client.until(isError)).toEqual({
      type: 'error',
      status: 404,
      stream_id: 'ghost',
      error: {
        message: expect.stringContaining('"ghost"') as string,
        type: 'invalid_request_error',
        param: 'stream_id',
        code: 'unknown_stream',
      },
    });
  });

  test('more frames than may wait in a connection are refused, the others answered', async () => {
    client.send(create('a', endless));
    for (let i = 0; i < 65; i++) client.send(create('a', { max_tokens: 1 }));
    expect(await client.until(isError)).toMatchObject({
      status: 429,
      stream_id: 'a',
      error: { code: 'queue_full' },
    });
    client.send({ type: 'chat.completion.cancel', stream_id: 'a' });
    await client.until((heard) => isDone('a')(heard) && client.heard.filter(isDone('a')).length === 65);
    expect(client.heard.filter(isError)).toHaveLength(1);
  });

  test('a binary frame closes with 1003', async () => {
    client.socket.send(Buffer.from(JSON.stringify(create('a'))));
    expect((await client.closed).code).toBe(1003);
  });

  test('text that is not UTF-8 closes with 1007', async () => {
    client.socket.send(Buffer.from([0xff, 0xfe]), { binary: false });
    expect((await client.closed).code).toBe(1007);
  });

  test.each(['close', 'terminate'] as const)('a client that leaves (%s) frees everything', async (way) => {
    for (let i = 0; i < 6; i++) client.send(create(`${i}`, endless));
    client.send(create('0', endless));
    await server.until(({ running, waiting }) => running === 4 && waiting === 2);
    const cancelled = await cancelledRequests();
    client.socket[way]();
    await server.until(({ running, waiting, kvBytes }) => running + waiting + kvBytes === 0);
    await expect.poll(cancelledRequests, { timeout: 10_000 }).toBe(cancelled + 6);
  });

  async function cancelledRequests(): Promise<number> {
    const page = await (await fetch(`${server.listener.url}/metrics`)).text();
    return Number(/coppice_requests_cancelled_total\{[^}]*\} (\d+)/.exec(page)?.[1]);
  }

  test('what is answered is logged and counted like HTTP', async () => {
    client.send(create('a', { max_tokens: 2 }));
    await client.until(isDone('a'));
    const line = () =>
      server
        .log()
        .filter(({ method }) => method === 'WS')
        .at(-1);
    await expect
      .poll(line)
      .toMatchObject({ path: CHAT, model: 'coppice-recall', tokensOut: 2, finish: 'length' });
  });
});

describe('limits', () => {
  test('lanes', async () => {
    const own = await startLiveServer({ 'websocket.max_streams': '2' }, engine);
    const client = await SocketClient.open(own.listener.url + CHAT);
    for (const id of ['a', 'b', 'c']) client.send(create(id, endless));
    expect(await client.until(isError)).toMatchObject({
      status: 429,
      stream_id: 'c',
      error: { code: 'websocket_stream_limit_reached' },
    });
    client.send({ type: 'chat.completion.cancel', stream_id: 'a' });
    await client.until(isDone('a'));
    client.send(create('c', { max_tokens: 1 }));
    await client.until(isDone('c'));
    await client.close();
    await own.listener.drain(0);
  });

  test('bytes of a frame: 1009', async () => {
    const own = await startLiveServer({ 'limits.frame_bytes': '1000' }, engine);
    const client = await SocketClient.open(own.listener.url + CHAT);
    client.send(create('a', { user: 'u'.repeat(1000) }));
    expect((await client.closed).code).toBe(1009);
    await own.listener.drain(0);
  });

  test('connections: 1013', async () => {
    const own = await startLiveServer({ 'websocket.max_connections': '1' }, engine);
    const first = await SocketClient.open(own.listener.url + CHAT);
    const second = await SocketClient.open(own.listener.url + CHAT);
    expect((await second.closed).code).toBe(1013);
    await first.close();
    await expect
      .poll(async () => {
        const third = await SocketClient.open(own.listener.url + CHAT);
        third.send(create('a', { max_tokens: 1 }));
        return third.until(isDone('a')).then(
          () => 'answered',
          () => 'refused',
        );
      })
      .toBe('answered');
    await own.listener.drain(0);
  });

  test('a peer that answers no ping is cut off, and its work ends', async () => {
    const own = await startLiveServer({ 'websocket.ping_ms': '50' }, engine);
    const busy = await SocketClient.open(own.listener.url + CHAT);
    for (let i = 0; i < 4; i++) busy.send(create(`${i}`, endless));
    await own.until(({ running }) => running === 4);
    const silent = await SocketClient.open(own.listener.url + CHAT, { autoPong: false });
    silent.send(create('a'));
    await own.until(({ waiting }) => waiting === 1);
    expect((await silent.closed).code).toBe(1006);
    await own.until(({ running, waiting }) => running === 4 && waiting === 0);
    await busy.close();
    await own.listener.drain(0);
  });
});

describe('the upgrade', () => {
  test('without a key: 401', async () => {
    const own = await startLiveServer({ api_keys: 'right-key' }, engine);
    const url = own.listener.url + CHAT;
    const row = { type: 'authentication_error', param: null, code: 'invalid_api_key' };
    expect(await refusal(url)).toMatchObject({
      status: 401,
      error: row,
      headers: { 'www-authenticate': 'Bearer' },
    });
    expect(await refusal(url, { headers: { authorization: 'Bearer wrong' } })).toMatchObject({ status: 401 });
    const client = await SocketClient.open(url, { headers: { authorization: 'Bearer right-key' } });
    client.send(create('a', { max_tokens: 1 }));
    await client.until(isDone('a'));
    await client.close();
    await own.listener.drain(0);
  });

  test('from a foreign page: 403', async () => {
    expect(await refusal(server.listener.url + CHAT, { origin: 'https://evil.example' })).toMatchObject({
      status: 403,
      error: { code: 'origin_not_allowed' },
    });
  });

  test.each(['/v1/completions', '/', '/v1/chat/completions/'])('to %s: 404', async (path) => {
    expect(await refusal(server.listener.url + path)).toMatchObject({
      status: 404,
      error: { code: 'not_found' },
    });
  });

  test('to another protocol is declined by answering the request', async () => {
    const body = JSON.stringify({ messages, max_tokens: 2 });
    const reply = await new Promise<{ status: number | undefined; text: string }>((resolve, reject) => {
      const headers = {
        'content-type': 'application/json',
        'content-length': body.length,
        connection: 'Upgrade, HTTP2-Settings',
        upgrade: 'h2c',
        'http2-settings': 'AAMAAABkAAQBAAAAAAIAAAAA',
      };
      const request = httpRequest(server.listener.url + CHAT, { method: 'POST', headers }, (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString()));
        response.on('end', () => {
          resolve({ status: response.statusCode, text });
        });
      });
      request.on('error', reject);
      request.end(body);
    });
    expect(reply.status).toBe(200);
    expect(JSON.parse(reply.text)).toMatchObject({ object: 'chat.completion' });
  });
});

describe('draining', () => {
  test('running work ends, then 1001; new work is refused', async () => {
    const own = await startLiveServer({}, engine);
    const busy = await SocketClient.open(own.listener.url + CHAT);
    const idle = await SocketClient.open(own.listener.url + CHAT);
    busy.send(create('a', { max_tokens: 300, ignore_eos: true }));
    await busy.until(isFirst('a'));
    const drained = own.listener.drain(30_000);
    expect((await idle.closed).code).toBe(1001);
    busy.send(create('b'));
    expect(await busy.until(isError)).toMatchObject({
      status: 503,
      stream_id: 'b',
      error: { code: 'draining' },
    });
    await busy.until(isDone('a'));
    expect((await busy.closed).code).toBe(1001);
    expect(finishReason(busy.heard)).toEqual(['length']);
    await drained;
  });

  test('what is left after the time is cut off', async () => {
    const own = await startLiveServer({}, engine);
    const client = await SocketClient.open(own.listener.url + CHAT);
    client.send(create('a', endless));
    await client.until(isFirst('a'));
    await own.listener.drain(10);
    expect((await client.closed).code).toBe(1006);
    await own.until(({ running, waiting }) => running + waiting === 0);
  });
});
