/** Servers that start and end: loading, draining, and what a second signal does. */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { afterAll, describe, expect, inject, test } from 'vitest';
import { SocketClient, refusal } from '../support/socket-client.ts';
import { startServerProcess } from './support/server-process.ts';
import type { ServerProcess } from './support/server-process.ts';
import { CHAT, RESPONSES, Target, eventually, expectError, ownsServer } from './support/target.ts';

const messages = [{ role: 'user', content: 'Tell me of red' }];
const body = { messages, max_tokens: 500, ignore_eos: true };
const started: ServerProcess[] = [];
afterAll(() => Promise.all(started.map((server) => server.stop())));

async function start(options: Parameters<typeof startServerProcess>[0]) {
  const server = await startServerProcess(options);
  started.push(server);
  return { server, target: new Target(server.url) };
}

describe.runIf(ownsServer)('from start to end', () => {
  test('listens before it has loaded; drains on a signal', async () => {
    const { server, target } = await start({ until: 'listening' });
    const loading = { status: 503, type: 'server_error', code: 'model_loading' };
    const [health, ready, chat, metrics] = await Promise.all([
      target.request('/health'),
      target.request('/ready'),
      target.post(CHAT, body),
      target.metrics(),
    ]);
    expect(health.status).toBe(200);
    expectError(ready, loading);
    expectError(chat, loading);
    expect(metrics.total('coppice_requests_running')).toBe(0);
    expect(metrics.families.has('coppice_time_to_first_token_seconds')).toBe(true);
    await eventually('a loaded model', async () => (await target.request('/ready')).status === 200);

    const stream = target.open(CHAT, body);
    const idle = await target.socket(RESPONSES);
    const busy = await target.socket(CHAT);
    busy.send({ type: 'chat.completion.create', stream_id: 'a', ...body });
    await Promise.all([stream.until(/"content"/), busy.until((heard) => 'choices' in heard)]);
    server.signal('SIGTERM');
    await eventually('draining', async () => (await target.request('/ready')).status === 503);
    const draining = { status: 503, type: 'server_error', code: 'draining' };
    const replies = await Promise.all([
      target.request('/ready'),
      target.post(CHAT, body),
      target.request('/health'),
    ]);
    expectError(replies[0], draining);
    expectError(replies[1], draining);
    expect(replies[2].status).toBe(200);
    expect(await refusal(server.url + CHAT)).toMatchObject({ status: 503, error: { code: 'draining' } });
    expect((await idle.closed).code).toBe(1001);
    expect((await busy.closed).code).toBe(1001);
    expect(busy.heard.at(-1)).toEqual({ type: 'chat.completion.done', stream_id: 'a' });
    await stream.ended;
    expect(stream.text).toMatch(/data: \[DONE\]\n\n$/);
    expect(await server.exit).toBe(0);
  });

  test('dead peers are cut off; a second signal ends it: exit code 143', async () => {
    const config = { websocket: { ping_ms: 100 }, queue: { max_running: 1 } };
    const { server, target } = await start({ cacheDir: inject('cacheDir'), config });
    const client = await SocketClient.open(server.url + CHAT);
    await once(client.socket, 'ping');
    const stream = target.open(CHAT, { ...body, max_tokens: 6000 });
    await stream.until(/"content"/);
    const peer = deadPeer(server.url);
    const waiting = async () => (await target.metrics()).total('coppice_requests_waiting');
    await eventually('its request to wait', async () => (await waiting()) === 1);
    await once(peer, 'close');
    await eventually('its request to be gone', async () => (await waiting()) === 0);
    expect(stream.text).not.toContain('[DONE]');
    server.signal('SIGTERM');
    await eventually('draining', async () => (await target.request('/ready')).status === 503);
    server.signal('SIGTERM');
    expect(await server.exit).toBe(143);
    await stream.ended;
    expect(stream.text).not.toContain('[DONE]');
  });
});

/** Asks for work over a WebSocket, and answers no ping. */
function deadPeer(url: string): Socket {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  const upgrade = [
    'GET /v1/chat/completions HTTP/1.1',
    `Host: ${hostname}:${port}`,
    'Connection: Upgrade',
    'Upgrade: websocket',
  ];
  const version = ['Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='];
  socket.write(`${[...upgrade, ...version].join('\r\n')}\r\n\r\n`);
  const text = Buffer.from(JSON.stringify({ type: 'chat.completion.create', stream_id: 'x', ...body }));
  // A masked text frame of less than 64 KiB; a mask of zeros leaves the text as it is.
  socket.write(
    Buffer.concat([Buffer.from([0x81, 0xfe, text.length >> 8, text.length & 0xff, 0, 0, 0, 0]), text]),
  );
  socket.resume();
  return socket;
}
