/** Who may call: keys from configuration and file, CORS, names of the host, upgrades; and that the log tells no secret. */
import { mkdtempSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { loadConfig, printableConfig } from '../../src/config.ts';
import { AppError } from '../../src/errors.ts';
import { chooseSubprotocol } from '../../src/server/auth.ts';
import { Gate } from '../../src/server/gate.ts';
import { createContext, createTestServer } from './support/app.ts';
import type { TestServer } from './support/app.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'my secret prompt' }];
const KEY = 'sk-first-0123456789';
const OTHER_KEY = 'sk-second-9876543210';
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'coppice-access-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function start(flags: Record<string, string> = {}): TestServer {
  return createTestServer(new ScriptedEngine(saying([300, 301])), flags);
}

async function expectRefusal(response: Response, status: number, code: string): Promise<string> {
  expect(response.status).toBe(status);
  expect(response.headers.get('x-request-id')).toMatch(/^req-/);
  const text = await response.text();
  expect(JSON.parse(text)).toMatchObject({ error: { code } });
  return text;
}

describe('keys', () => {
  const server = start({ api_keys: `${KEY},${OTHER_KEY}` });

  test.each([KEY, OTHER_KEY])('%s opens', async (key) => {
    expect((await server.post(CHAT, { messages }, bearer(key))).status).toBe(200);
    expect((await server.post(CHAT, { messages }, { authorization: `bearer  ${key}` })).status).toBe(200);
  });

  test.each([
    {},
    { authorization: '' },
    { authorization: 'Bearer' },
    { authorization: 'Bearer ' },
    { authorization: KEY },
    { authorization: `Basic ${KEY}` },
    { authorization: `Bearer ${KEY} ${KEY}` },
    { authorization: `Bearer ${KEY}, Bearer ${KEY}` },
    bearer(KEY.slice(0, -1)),
    bearer(`${KEY}x`),
    bearer(KEY.toUpperCase()),
    bearer('undefined'),
    { 'sec-websocket-protocol': `openai-insecure-api-key.${KEY}` },
  ])('%j does not', async (headers) => {
    const response = await server.post(CHAT, { messages }, headers);
    expect(response.headers.get('www-authenticate')).toBe('Bearer');
    expect(await expectRefusal(response, 401, 'invalid_api_key')).not.toContain('sk-');
  });

  test.each([
    '/v1/models',
    '/metrics',
    '/',
    '/nowhere',
    '/health/x',
    '/HEALTH',
    '//health',
    '/v1/models/health',
  ])('%s needs one', async (path) => {
    await expectRefusal(await server.app.request(path), 401, 'invalid_api_key');
    expect((await server.app.request(path, { headers: bearer(KEY) })).status).not.toBe(401);
  });

  test('health and readiness need none, metrics when they are public', async () => {
    expect((await server.app.request('/health')).status).toBe(200);
    expect((await server.app.request('/health', { method: 'HEAD' })).status).toBe(200);
    expect((await server.app.request('/ready')).status).toBe(200);
    const open = start({ api_keys: KEY, 'metrics.public': 'true' });
    expect((await open.app.request('/metrics')).status).toBe(200);
    expect((await open.app.request('/v1/models')).status).toBe(401);
  });

  test('no request is read before its key', async () => {
    expect((await server.post(CHAT, 'not JSON')).status).toBe(401);
  });

  test('no keys, no question', async () => {
    expect((await start().post(CHAT, { messages }, bearer('anything'))).status).toBe(200);
  });
});

describe('names of keys', () => {
  test('tell keys apart, not what they are', () => {
    const { context } = createContext(null, { api_keys: `${KEY},${OTHER_KEY}` });
    const gate = new Gate(context.config, context.logger);
    const [first, second] = [KEY, OTHER_KEY].map((key) => gate.keys.nameOf(key));
    expect(first).toMatch(/^[0-9a-f]{12}$/);
    expect(second).not.toBe(first);
    expect(gate.keys.nameOf(KEY)).toBe(first);
    expect(gate.keys.nameOf('other')).toBeNull();
    expect(new Gate(context.config, context.logger).keys.nameOf(KEY)).not.toBe(first);
  });
});

describe('api_keys_file', () => {
  const gates: Gate[] = [];
  afterEach(() => {
    for (const gate of gates.splice(0)) gate.close();
  });
  function open(file: string, flags: Record<string, string> = {}) {
    const { context, log } = createContext(null, { api_keys_file: file, ...flags });
    const gate = new Gate(context.config, context.logger);
    gates.push(gate);
    return { knows: (key: string) => gate.keys.nameOf(key) !== null, log };
  }
  function write(name: string, text: string): string {
    const file = join(folder, name);
    writeFileSync(file, text);
    return file;
  }

  test('a key a line, beside those of the configuration', () => {
    const file = write('keys', `\uFEFF# ours\r\n\r\n  ${KEY}  \n#${OTHER_KEY}\n`);
    const { knows } = open(file, { api_keys: 'third' });
    expect([KEY, 'third', OTHER_KEY, '# ours', ''].map(knows)).toEqual([true, true, false, false, false]);
  });

  test.each([
    ['empty', ''],
    ['without keys', '# nothing\n\n'],
    ['with two keys a line', `${KEY} ${OTHER_KEY}\n`],
    ['with a comma', `${KEY},${OTHER_KEY}\n`],
    ['with what headers cannot carry', `${KEY}\n\u00e9\n`],
  ])('a file %s ends the start and tells no key', (_, text) => {
    const file = write('bad', text);
    const run = () => open(file);
    expect(run).toThrow(AppError);
    expect(run).toThrow(/^api_keys_file .*bad: expected/);
    expect(run).not.toThrow(/sk-/);
  });

  test('a missing file ends the start', () => {
    expect(() => open(join(folder, 'missing'))).toThrow(/api_keys_file .*missing: ENOENT/);
  });

  test('a change is taken over while running; a broken or vanished file changes nothing', async () => {
    const file = write('hot', KEY);
    const { knows, log } = open(file);
    const settles = (check: () => unknown) => expect.poll(check, { timeout: 30_000 });
    expect([knows(KEY), knows(OTHER_KEY)]).toEqual([true, false]);
    write('hot', `${OTHER_KEY}\n`);
    await settles(() => [knows(KEY), knows(OTHER_KEY)]).toEqual([false, true]);
    const numErrors = () => log().filter(({ level }) => level === 50).length;
    write('hot', '\n\n');
    await settles(numErrors).toBe(1);
    unlinkSync(file);
    await settles(numErrors).toBe(2);
    expect([knows(KEY), knows(OTHER_KEY)]).toEqual([false, true]);
    write('hot', `${KEY}\n# back\n`);
    await settles(() => [knows(KEY), knows(OTHER_KEY)]).toEqual([true, false]);
    expect(JSON.stringify(log())).not.toContain('sk-');
  });
});

describe('CORS', () => {
  const page = 'https://page.example';
  const preflight = (
    server: TestServer,
    origin: string,
    asked = 'authorization,content-type,x-stainless-os',
  ) =>
    server.app.request(CHAT, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': asked,
      },
    });
  const corsHeaders = (response: Response) =>
    [...response.headers.keys()].filter((name) => name.startsWith('access-control-'));

  test('is off by default', async () => {
    const server = start();
    for (const origin of [page, 'null', 'http://localhost']) {
      expect(corsHeaders(await server.post(CHAT, { messages }, { origin }))).toEqual([]);
      const response = await preflight(server, origin);
      expect(response.status).toBe(405);
      expect(corsHeaders(response)).toEqual([]);
    }
  });

  test('an allowed origin reads replies, errors and streams, and needs its key still', async () => {
    const server = start({ api_keys: KEY, 'cors.origins': `${page},http://localhost:3000` });
    for (const [body, headers, status] of [
      [{ messages }, bearer(KEY), 200],
      [{ messages, stream: true }, bearer(KEY), 200],
      [{ messages: 5 }, bearer(KEY), 400],
      [{ messages }, {}, 401],
    ] as const) {
      const response = await server.post(CHAT, body, { ...headers, origin: page });
      expect(response.status).toBe(status);
      expect(response.headers.get('access-control-allow-origin')).toBe(page);
      expect(response.headers.get('access-control-allow-credentials')).toBeNull();
      expect(response.headers.get('access-control-expose-headers')).toContain('x-request-id');
      expect(response.headers.get('vary')).toBe('Origin');
    }
  });

  test('a preflight needs no key', async () => {
    const response = await preflight(
      start({ api_keys: KEY, 'cors.origins': page }),
      page,
      'X-Stainless-Os, x-evil',
    );
    expect(response.status).toBe(204);
    expect(await response.text()).toBe('');
    expect(response.headers.get('access-control-allow-origin')).toBe(page);
    expect(response.headers.get('access-control-allow-methods')).toContain('POST');
    const allowed = response.headers.get('access-control-allow-headers')?.split(', ');
    expect(allowed).toEqual(
      expect.arrayContaining([
        'authorization',
        'content-type',
        'x-request-id',
        'x-coppice-pruning',
        'x-stainless-os',
      ]),
    );
    expect(allowed).not.toContain('x-evil');
  });

  test.each([
    'https://page.example.evil',
    'http://page.example',
    'https://page.example:444',
    'null',
    'https://PAGE.example',
  ])('%s is not allowed', async (origin) => {
    const server = start({ api_keys: KEY, 'cors.origins': page });
    const response = await server.post(CHAT, { messages }, { ...bearer(KEY), origin });
    expect(corsHeaders(response)).toEqual([]);
    expect(response.headers.get('vary')).toBe('Origin');
    expect((await preflight(server, origin)).status).toBe(401);
  });

  test('"*" allows all', async () => {
    const server = start({ 'cors.origins': '*' });
    const response = await server.post(CHAT, { messages }, { origin: 'https://any.example' });
    expect(response.headers.get('access-control-allow-origin')).toBe('*');
    expect((await preflight(server, 'null')).status).toBe(204);
  });
});

describe('names of the host', () => {
  const health = (server: TestServer, host: string) => server.app.request('/health', { headers: { host } });

  test.each([
    'localhost',
    'localhost:8000',
    'LOCALHOST',
    'x.localhost:1',
    '127.0.0.1:8000',
    '[::1]:8000',
    '192.168.1.5',
  ])('%s is our own on loopback', async (host) => {
    expect((await health(start(), host)).status).toBe(200);
  });

  test.each([
    'evil.example',
    'evil.example:8000',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    'a b',
    '',
  ])('%j is not', async (host) => {
    await expectRefusal(await health(start(), host), 403, 'host_not_allowed');
  });

  test.each([
    { host: '0.0.0.0' },
    { host: '192.168.1.5' },
    { api_keys: KEY },
    { 'cors.origins': 'https://evil.example' },
    { 'cors.origins': '*' },
  ])('any will do with %j', async (flags) => {
    expect((await health(start(flags as Record<string, string>), 'evil.example')).status).toBe(200);
  });
});

describe('upgrades', () => {
  function admit(headers: Record<string, string>, flags: Record<string, string> = {}) {
    const { context } = createContext(null, flags);
    return new Gate(context.config, context.logger).admitUpgrade({
      host: '127.0.0.1:8000',
      upgrade: 'websocket',
      ...headers,
    });
  }
  const code = (run: () => unknown) => {
    try {
      run();
    } catch (error) {
      return error instanceof AppError ? error.errorCode : error;
    }
    return null;
  };

  test.each<[Record<string, string>, Record<string, string>, string | null]>([
    [{}, {}, null],
    [{ origin: 'http://127.0.0.1:8000' }, {}, null],
    [{ origin: 'https://127.0.0.1:8000' }, {}, null],
    [{ origin: 'http://127.0.0.1:8001' }, {}, 'origin_not_allowed'],
    [{ origin: 'https://evil.example' }, {}, 'origin_not_allowed'],
    [{ origin: 'null' }, {}, 'origin_not_allowed'],
    [{ origin: '' }, {}, 'origin_not_allowed'],
    [{ origin: 'https://evil.example', host: 'evil.example' }, {}, 'host_not_allowed'],
    [{ origin: 'https://page.example' }, { 'cors.origins': 'https://page.example' }, null],
    [{ origin: 'null' }, { 'cors.origins': '*' }, null],
    [{ origin: 'https://evil.example', ...bearer(KEY) }, { api_keys: KEY }, 'origin_not_allowed'],
    [{}, { api_keys: KEY }, 'invalid_api_key'],
    [bearer(OTHER_KEY), { api_keys: KEY }, 'invalid_api_key'],
    [bearer(KEY), { api_keys: KEY }, null],
    [{ 'sec-websocket-protocol': `realtime, openai-insecure-api-key.${KEY}` }, { api_keys: KEY }, null],
    [{ 'sec-websocket-protocol': `openai-insecure-api-key.x` }, { api_keys: KEY }, 'invalid_api_key'],
  ])('%j with %j: %s', (headers, flags, expected) => {
    expect(code(() => admit(headers, flags))).toBe(expected);
  });

  test('say whose key it is', () => {
    expect(admit(bearer(KEY), { api_keys: KEY }).keyName).toMatch(/^[0-9a-f]{12}$/);
    expect(admit({}).keyName).toBeNull();
  });

  test('confirm no key as the subprotocol while another is offered', () => {
    const key = `openai-insecure-api-key.${KEY}`;
    expect(chooseSubprotocol(new Set([key, 'realtime']))).toBe('realtime');
    expect(chooseSubprotocol(new Set([key]))).toBe(key);
    expect(chooseSubprotocol(new Set())).toBe(false);
  });
});

describe('secrets', () => {
  test('neither keys nor prompts are logged, at any level, for good and bad requests', async () => {
    const server = start({ api_keys: KEY, 'log.level': 'trace' });
    const headers = bearer(KEY);
    server.context.logger.info({ config: printableConfig(server.context.config) }, 'listening');
    for (const [path, body, sent] of [
      [CHAT, { messages }, headers],
      [CHAT, { messages, stream: true }, headers],
      [CHAT, { messages, temperature: 'my secret prompt' }, headers],
      [CHAT, { messages: 'my secret prompt' }, headers],
      [CHAT, '{"messages": my secret prompt', headers],
      [CHAT, { messages: [{ role: 'user', content: [{ type: 'my secret prompt' }] }] }, headers],
      [CHAT, { messages, 'my secret prompt': 1 }, headers],
      [CHAT, { messages, model: 'my secret prompt' }, headers],
      [CHAT, { messages, pruning: 'my secret prompt' }, headers],
      [CHAT, { messages, stop: ['my secret prompt'] }, headers],
      ['/v1/completions', { prompt: 'my secret prompt' }, headers],
      ['/tokenize', { prompt: 'my secret prompt' }, headers],
      [CHAT, { messages }, bearer('sk-wrong')],
      [CHAT, { messages }, { ...headers, 'x-request-id': 'my secret prompt' }],
      [`/v1/models?api_key=${KEY}`, {}, headers],
    ] as const)
      await (await server.post(path, body, sent)).text();
    const text = JSON.stringify(server.log());
    expect(server.log().length).toBeGreaterThanOrEqual(15);
    expect(text).not.toMatch(/sk-|secret/);
  });

  test('the printed configuration shows how many keys there are, and no password of a URL', () => {
    const flags = {
      api_keys: `${KEY},${OTHER_KEY}`,
      'tracing.otlp_endpoint': 'http://me:hush@host:4318/x@y',
    };
    const config = loadConfig({ flags });
    const printed = printableConfig(config);
    expect(printed).toEqual({
      ...config,
      api_keys: ['***', '***'],
      tracing: { otlp_endpoint: 'http://***@host:4318/x@y' },
    });
    expect(printableConfig(loadConfig())).toEqual(loadConfig());
  });
});
