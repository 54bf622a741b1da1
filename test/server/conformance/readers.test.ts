/** Fifty readers that stop reading: the others are served, and memory stays where it is. */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { DEMO_MODEL, startServerProcess } from './support/server-process.ts';
import type { ServerProcess } from './support/server-process.ts';
import { CHAT, Target, ownsServer } from './support/target.ts';

const NUM_STALLED = 50;
/** The model's name stands on every chunk: so long a one fills the kernel's buffers after a dozen tokens. */
const LONG_NAME = 'm'.repeat(2 ** 19);
/** What all chunks asked for would be: the server may hold a small part of it. */
const MAX_TOKENS = 2000;
const ASKED_BYTES = NUM_STALLED * MAX_TOKENS * LONG_NAME.length;
/** Beside what lies unsent: graphs, caches and the garbage of a busy process. */
const MOST_BYTES = 400 * 2 ** 20;

const messages = [{ role: 'user', content: 'Tell me of red' }];
let server: ServerProcess;
let target: Target;
const sockets: Socket[] = [];

beforeAll(async () => {
  if (!ownsServer) return;
  server = await startServerProcess({
    cacheDir: inject('cacheDir'),
    config: {
      models: { [LONG_NAME]: { model: DEMO_MODEL } },
      queue: { max_running: 4 },
      kv: { max_bytes: '64MiB' },
      log: { level: 'warn' },
    },
  });
  target = new Target(server.url);
});

afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  if (ownsServer) await server.stop();
});

/** Sends a request and reads nothing of its reply. */
function stall(): void {
  const { hostname, port } = new URL(target.url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  socket.pause();
  sockets.push(socket);
  const text = JSON.stringify({ messages, stream: true, ignore_eos: true, max_tokens: MAX_TOKENS });
  const head = `POST ${CHAT} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nContent-Type: application/json\r\n`;
  socket.write(`${head}Content-Length: ${text.length}\r\n\r\n${text}`);
}

test.runIf(ownsServer)('fifty stalled readers hold up nobody', async () => {
  const before = server.rssBytes();
  for (let i = 0; i < NUM_STALLED; i++) stall();
  const ask = (stream: boolean) => target.post(CHAT, { messages, max_tokens: 4, ignore_eos: true, stream });
  for (let i = 0; i < 2; i++) {
    const replies = await Promise.all([true, false, true, false].map(ask));
    expect(replies.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    for (const { text } of replies) expect(text).toContain('"finish_reason":"length"');
  }
  const growth = server.rssBytes() - before;
  console.log(`memory with ${NUM_STALLED} stalled readers: ${Math.round(growth / 2 ** 20)} MiB more`);
  expect(ASKED_BYTES).toBeGreaterThan(20 * MOST_BYTES);
  // NaN where the system does not tell.
  if (!Number.isNaN(growth)) expect(growth).toBeLessThan(MOST_BYTES);
  for (const socket of sockets) socket.destroy();
  expect((await ask(false)).status).toBe(200);
});
