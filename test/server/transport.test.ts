/** Below requests: limits on headers and time, malformed HTTP, TLS. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import type { TLSSocket } from 'node:tls';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { listen } from '../../src/server/listen.ts';
import type { Listener } from '../../src/server/listen.ts';
import { createTransport } from '../../src/server/transport.ts';
import type { Timeouts, Transport } from '../../src/server/transport.ts';
import { createContext } from './support/app.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';

async function start(
  flags: Record<string, string> = {},
): Promise<Listener & { log(): Record<string, unknown>[] }> {
  const { context, log } = createContext(new ScriptedEngine(saying([300, 301])), { port: '0', ...flags });
  return { ...(await listen(context)), log };
}

function open(url: string): Socket {
  return connect(Number(new URL(url).port), '127.0.0.1');
}

/** All that the server sends until it closes the connection. */
async function readAll(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (data) => (text += data.toString()));
  socket.on('error', () => undefined);
  await once(socket, 'close');
  return text;
}

function expectError(reply: string, status: number, code: string | null): void {
  expect(reply).toMatch(new RegExp(`^HTTP/1.1 ${status} [A-Z]`));
  expect(reply).toMatch(/\r\nx-request-id: req-/i);
  const body = JSON.parse(reply.slice(reply.indexOf('\r\n\r\n') + 4)) as { error: { code: string | null } };
  expect(Object.keys(body.error).sort()).toEqual(['code', 'message', 'param', 'type']);
  expect(body.error.code).toBe(code);
}

describe('limits of what is no request yet', () => {
  let server: Listener;
  beforeAll(async () => {
    server = await start({ 'limits.header_bytes': '4096' });
  });
  afterAll(() => server.drain(0));

  async function send(text: string): Promise<string> {
    const socket = open(server.url);
    socket.write(text);
    return readAll(socket);
  }
  const get = (lines: string) =>
    `GET /health HTTP/1.1\r\nHost: localhost\r\n${lines}Connection: close\r\n\r\n`;

  test('headers of up to limits.header_bytes', async () => {
    expect(await send(get(`x-long: ${'a'.repeat(3000)}\r\n`))).toMatch(/^HTTP\/1.1 200 /);
    expectError(await send(get(`x-long: ${'a'.repeat(5000)}\r\n`)), 431, 'headers_too_large');
    expectError(await send(`GET /${'a'.repeat(5000)} HTTP/1.1\r\n\r\n`), 431, 'headers_too_large');
  });

  test('up to a hundred headers', async () => {
    expect(await send(get('a: b\r\n'.repeat(98)))).toMatch(/^HTTP\/1.1 200 /);
    expectError(await send(get('a: b\r\n'.repeat(99))), 431, 'headers_too_large');
  });

  test.each([
    'hello\r\n\r\n',
    '\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc\u0003\u0003',
    'GET / HTTP/9.9\r\n\r\n',
    'GET / HTTP/1.1\r\nHost localhost\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: localhost\r\nX: a\u0000b\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n',
    'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
    'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n',
    'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n',
  ])('malformed HTTP %j', async (text) => {
    expectError(await send(text), 400, null);
  });

  test('a body in broken chunks', async () => {
    const head = `POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n`;
    expectError(await send(`${head}Transfer-Encoding: chunked\r\n\r\nzz\r\n`), 400, null);
  });

  test('nothing is written into another reply', async () => {
    const socket = open(server.url);
    const body = JSON.stringify({ messages: [{ role: 'user', content: 'x' }], stream: true });
    const head = `POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n`;
    socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}hello\r\n\r\n`);
    expect((await readAll(socket)).match(/HTTP\/1.1 400/g) ?? []).toHaveLength(0);
  });
});

describe('slow clients', () => {
  const timeouts: Timeouts = {
    headersTimeout: 200,
    requestTimeout: 400,
    keepAliveTimeout: 60_000,
    stalledReaderTimeout: 300,
    connectionsCheckingInterval: 50,
  };
  let transport: Transport;
  let port: number;
  beforeAll(async () => {
    const { context } = createContext(null);
    transport = createTransport(
      context.config,
      context.logger,
      (incoming, outgoing) => {
        incoming.on('error', () => undefined);
        const reply = () => outgoing.end('whole');
        if (incoming.url === '/endless') outgoing.write('x'.repeat(2 ** 25));
        else if (incoming.url === '/late') setTimeout(reply, 1000);
        else incoming.resume().on('end', reply);
      },
      timeouts,
    );
    transport.server.listen(0, '127.0.0.1');
    await once(transport.server, 'listening');
    ({ port } = transport.server.address() as AddressInfo);
  });
  afterAll(() => {
    transport.server.close();
    transport.server.closeAllConnections();
  });

  async function trickle(start: string, piece: string): Promise<string> {
    const socket = connect(port, '127.0.0.1');
    socket.write(start);
    const timer = setInterval(() => socket.write(piece), 20);
    const reply = await readAll(socket);
    clearInterval(timer);
    return reply;
  }

  test('of headers', async () => {
    expectError(await trickle('GET / HTTP/1.1\r\n', 'a: b\r\n'), 408, 'request_timeout');
  });

  test('of a body', async () => {
    const start = 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n';
    expectError(await trickle(start, 'x'), 408, 'request_timeout');
  });

  test('a connection that was never used closes without a word', async () => {
    const socket = connect(port, '127.0.0.1');
    let text = '';
    socket.on('data', (data) => (text += data.toString()));
    await once(socket, 'close');
    expect(text).toBe('');
  });

  test('a client that keeps its half of the connection loses it', async () => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => undefined);
    socket.write('hello\r\n\r\n');
    const [data] = (await once(socket, 'data')) as [Buffer];
    expectError(data.toString(), 400, null);
    await expect.poll(numConnections, { timeout: 30_000 }).toBe(0);
    socket.destroy();
  });

  const numConnections = () =>
    new Promise((resolve) => {
      transport.server.getConnections((_, count) => {
        resolve(count);
      });
    });

  test('a client that reads nothing of its reply is cut off', async () => {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write('GET /endless HTTP/1.1\r\nHost: x\r\n\r\n');
    await once(socket, 'readable');
    expect(await numConnections()).toBe(1);
    await expect.poll(numConnections, { timeout: 30_000 }).toBe(0);
    socket.destroy();
  });

  test('a reply may take longer than that to come', async () => {
    const socket = connect(port, '127.0.0.1');
    socket.write('GET /late HTTP/1.1\r\nHost: x\r\n\r\n');
    const [data] = (await once(socket, 'data')) as [Buffer];
    expect(data.toString()).toMatch(/^HTTP\/1.1 200 /);
    socket.destroy();
  });

  test('a connection may rest between two requests for longer than that', async () => {
    const socket = connect(port, '127.0.0.1');
    for (let i = 0; i < 2; i++) {
      socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
      const [data] = (await once(socket, 'data')) as [Buffer];
      expect(data.toString()).toMatch(/^HTTP\/1.1 200 /);
      await new Promise((resolve) => setTimeout(resolve, 600));
    }
    socket.destroy();
  });
});

describe('TLS', () => {
  const fixtures = join(import.meta.dirname, '../fixtures/tls');
  let folder: string;
  let flags: Record<string, string>;
  let server: (Listener & { log(): Record<string, unknown>[] }) | null = null;
  function use(name: 'first' | 'second'): void {
    for (const part of ['cert', 'key'])
      copyFileSync(join(fixtures, `${name}-${part}.pem`), join(folder, `${part}.pem`));
  }
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'coppice-tls-'));
    flags = { 'tls.cert_file': join(folder, 'cert.pem'), 'tls.key_file': join(folder, 'key.pem') };
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });
  afterEach(async () => {
    await server?.drain(0);
    server = null;
  });

  /** The reply's status and the name in the server's certificate. */
  async function ask(url: string): Promise<{ status: number | undefined; name: string }> {
    const ca = ['first', 'second'].map((name) => readFileSync(join(fixtures, `${name}-cert.pem`)));
    const outgoing = request(`${url}/health`, { ca, agent: false }).end();
    const [incoming] = (await once(outgoing, 'response')) as [
      NodeJS.ReadableStream & { statusCode?: number; socket: TLSSocket; resume(): void },
    ];
    const name = incoming.socket.getPeerCertificate().subject.CN;
    incoming.resume();
    return { status: incoming.statusCode, name: String(name) };
  }

  test('https, and a certificate that is renewed while running', async () => {
    use('first');
    server = await start(flags);
    const { url } = server;
    const log = () => server?.log() ?? [];
    expect(url).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/);
    expect(await ask(url)).toEqual({ status: 200, name: 'first' });
    writeFileSync(join(folder, 'key.pem'), 'broken');
    await expect
      .poll(() => log().filter(({ level }) => level === 50).length, { timeout: 30_000 })
      .toBeGreaterThan(0);
    expect(await ask(url)).toEqual({ status: 200, name: 'first' });
    use('second');
    await expect.poll(() => ask(url), { timeout: 30_000 }).toEqual({ status: 200, name: 'second' });
    expect(JSON.stringify(log())).not.toContain('PRIVATE KEY');
  });

  test('plain HTTP is not answered', async () => {
    use('first');
    server = await start(flags);
    const socket = open(server.url);
    socket.write('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n');
    expect(await readAll(socket)).not.toContain('200 OK');
  });

  test.each<[string, () => Record<string, string>, RegExp]>([
    [
      'a certificate without a key',
      () => ({ 'tls.cert_file': flags['tls.cert_file'] ?? '' }),
      /^tls.key_file: expected/,
    ],
    [
      'a key without a certificate',
      () => ({ 'tls.key_file': flags['tls.key_file'] ?? '' }),
      /^tls.cert_file: expected/,
    ],
    [
      'a missing file',
      () => ({ ...flags, 'tls.cert_file': '/nowhere/cert.pem' }),
      /^tls.cert_file \/nowhere\/cert.pem: ENOENT/,
    ],
    [
      'no certificate',
      () => ({ ...flags, 'tls.cert_file': flags['tls.key_file'] ?? '' }),
      /^tls.cert_file .*key.pem: /,
    ],
    [
      'the key of another',
      () => ({ ...flags, 'tls.key_file': join(fixtures, 'second-key.pem') }),
      /^tls.key_file .*second-key.pem: /,
    ],
  ])('%s ends the start', async (_, wrong, message) => {
    use('first');
    await expect(start(wrong())).rejects.toThrow(message);
  });
});
