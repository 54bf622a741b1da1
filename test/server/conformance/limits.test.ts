/** A server of the suite's own with keys, small limits, a short queue, little memory, two models and vLLM's names of metrics. */
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { SocketClient, refusal } from '../support/socket-client.ts';
import { DEMO_MODEL, STORIES_MODEL, startServerProcess } from './support/server-process.ts';
import type { ServerProcess } from './support/server-process.ts';
import {
  CHAT,
  COMPLETIONS,
  RESPONSES,
  Target,
  eventually,
  expectError,
  expectErrorObject,
  ownsServer,
} from './support/target.ts';

const KEYS = ['sk-one', 'sk-two'];
const messages = [{ role: 'user', content: 'Tell me of red' }];
const endless = { messages, max_tokens: 3000, ignore_eos: true };
const config = {
  api_keys: KEYS,
  model: DEMO_MODEL,
  models: { stories: { model: STORIES_MODEL, load: 'first_use' } },
  limits: { body_bytes: 20_000, frame_bytes: 10_000, header_bytes: 4096 },
  websocket: { max_connections: 2, max_streams: 2 },
  sse: { ping_ms: 50 },
  queue: { max_running: 1, max_requests: 2 },
  // Of the demo model, some 5400 tokens.
  kv: { max_bytes: '32MiB' },
  metrics: { compat: ['vllm'], public: true },
  pruning: {
    default: 'mine',
    presets: { mine: { summary: 'ours', pruning: { kv: { policy: 'snapkv', keep: 0.5 } } } },
  },
};

let server: ServerProcess;
let target: Target;
beforeAll(async () => {
  if (!ownsServer) return;
  server = await startServerProcess({ cacheDir: inject('cacheDir'), config });
  target = new Target(server.url, KEYS[0]);
});
afterAll(async () => {
  if (ownsServer) await server.stop();
});

describe.runIf(ownsServer)('keys', () => {
  test.each<[Record<string, string>, string]>([
    [{}, 'none'],
    [{ authorization: 'Bearer sk-three' }, 'a wrong one'],
    [{ authorization: 'sk-one' }, 'not as a bearer'],
    [{ authorization: 'Bearer ' }, 'an empty one'],
  ])('%j (%s): 401', async (headers) => {
    for (const path of ['/v1/models', '/v1/policies', '/openapi.json', '/no-such', CHAT]) {
      const response = await fetch(server.url + path, { headers, method: path === CHAT ? 'POST' : 'GET' });
      const text = await response.text();
      const reply = {
        status: response.status,
        headers: response.headers,
        text,
        json: JSON.parse(text) as Record<string, unknown>,
      };
      expectError(reply, { status: 401, type: 'authentication_error', code: 'invalid_api_key', param: null });
    }
    for (const path of [CHAT, RESPONSES])
      expect(await refusal(server.url + path, { headers })).toMatchObject({
        status: 401,
        error: { type: 'authentication_error', code: 'invalid_api_key' },
      });
  });

  test('each of several is good; probes and public metrics need none', async () => {
    for (const key of KEYS)
      expect((await new Target(server.url, key).request('/v1/models')).status).toBe(200);
    for (const path of ['/health', '/ready', '/metrics'])
      expect((await fetch(server.url + path)).status).toBe(200);
    expect(server.output()).not.toContain('sk-');
  });
});

describe.runIf(ownsServer)('limits', () => {
  test('of bodies', async () => {
    const fit = { prompt: 'a', max_tokens: 1, user: 'x'.repeat(19_000) };
    expect((await target.post(COMPLETIONS, fit)).status).toBe(200);
    const reply = await target.post(COMPLETIONS, { ...fit, user: 'x'.repeat(20_000) });
    expectError(reply, { status: 413, code: 'body_too_large' });
    const body = new ReadableStream({
      pull(controller) {
        controller.enqueue(new TextEncoder().encode(' '.repeat(15_000)));
      },
    });
    const headers = { 'content-type': 'application/json' };
    const init = { method: 'POST', headers, body, duplex: 'half' } as RequestInit;
    expectError(await target.request(COMPLETIONS, init), { status: 413, code: 'body_too_large' });
  });

  test('of headers', async () => {
    expect((await target.request('/v1/models', { headers: { 'x-long': 'x'.repeat(5000) } })).status).toBe(
      431,
    );
  });

  test('of frames, lanes and connections', async () => {
    const open = () => SocketClient.open(server.url + CHAT, { headers: target.headers });
    const [one, two] = [await open(), await open()];
    const third = await open();
    expect((await third.closed).code).toBe(1013);
    one.send({ type: 'chat.completion.create', messages, user: 'x'.repeat(10_000) });
    expect((await one.closed).code).toBe(1009);
    for (const lane of ['a', 'b', 'c'])
      two.send({ type: 'chat.completion.create', stream_id: lane, ...endless });
    const refused = await two.until(({ type }) => type === 'error');
    expect(refused).toMatchObject({ status: 429, stream_id: 'c' });
    expectErrorObject(refused['error'], {
      status: 429,
      type: 'rate_limit_error',
      code: 'websocket_stream_limit_reached',
      param: 'stream_id',
    });
    await two.close();
    await target.untilIdle();
  });

  test('of memory', async () => {
    const prompt = Array<number>(6000).fill(5);
    for (const stream of [true, false]) {
      const reply = await target.post(COMPLETIONS, { prompt, max_tokens: 1, stream, pruning: 'none' });
      expectError(reply, { status: 503, type: 'server_error', code: 'kv_memory_exceeded' });
    }
  });
});

describe.runIf(ownsServer)('the queue', () => {
  test('pings while it waits, order by priority, 429 with Retry-After when full', async () => {
    const running = target.open(CHAT, endless);
    await running.until(/"content"/);
    const ended: string[] = [];
    const wait = (name: string, priority: number) => {
      const stream = target.open(CHAT, { messages, max_tokens: 2, priority });
      void stream.ended.then(() => ended.push(name));
      return stream;
    };
    const late = wait('late', 5);
    await late.until(/: ping/);
    const early = wait('early', -5);
    await early.until(/: ping/);
    expect(late.text).not.toContain('data:');
    for (const stream of [true, false]) {
      const reply = await target.post(CHAT, { messages, stream });
      expectError(reply, { status: 429, type: 'rate_limit_error', code: 'queue_full', param: null });
      expect(reply.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
    }
    const socket = await SocketClient.open(server.url + CHAT, { headers: target.headers });
    socket.send({ type: 'chat.completion.create', stream_id: 'a', messages });
    expect(await socket.until(({ type }) => type === 'error')).toMatchObject({
      status: 429,
      stream_id: 'a',
      error: { code: 'queue_full' },
    });
    await socket.close();
    running.leave();
    await Promise.all([late.ended, early.ended]);
    expect(ended).toEqual(['early', 'late']);
    expect(late.text).toContain('data: [DONE]');
    await target.untilIdle();
  });
});

describe.runIf(ownsServer)('two models', () => {
  test('are listed, answer under their names, and count apart', async () => {
    const { json } = await target.request('/v1/models');
    expect((json['data'] as { id: string }[]).map(({ id }) => id)).toEqual(['coppice-recall', 'stories']);
    const ask = async (fields: object) => {
      const reply = await target.post(COMPLETIONS, { prompt: 'Once upon a time', max_tokens: 2, ...fields });
      expect(reply.status, reply.text).toBe(200);
      return reply.json['model'];
    };
    expect(await ask({ model: 'stories', pruning: 'none' })).toBe('stories');
    expect(await ask({})).toBe('coppice-recall');
    const { families } = await target.metrics();
    const samples = families.get('coppice_generation_tokens_total')?.samples ?? [];
    expect(samples.map(({ labels }) => labels['model_name']).sort()).toEqual(['coppice-recall', 'stories']);
    expect(samples.every(({ value }) => value >= 2)).toBe(true);
    expect((await target.request('/v1/policies?model=stories')).status).toBe(200);
    expectError(await target.request('/v1/policies?model=no-such'), { status: 404, code: 'model_not_found' });
  });
});

describe.runIf(ownsServer)('configuration', () => {
  test('a preset of one’s own, as the default', async () => {
    const ask = async (fields: object) =>
      (await target.post(COMPLETIONS, { prompt: 'a b c', max_tokens: 1, ...fields })).json['pruning'];
    expect(await ask({})).toMatchObject({ preset: 'mine', kv: { policy: 'snapkv' } });
    expect(await ask({ pruning: 'none' })).toEqual({ preset: 'none' });
    const presets = (await target.request('/v1/policies')).json['presets'] as { name: string }[];
    expect(presets.map(({ name }) => name)).toContain('mine');
  });

  test('vLLM’s names of metrics have the same values', async () => {
    await target.post(COMPLETIONS, { prompt: 'a', max_tokens: 1 });
    let page = await target.metrics();
    await eventually('equal values', async () => {
      page = await target.metrics();
      return ['prefix_cache_queries_total', 'prefix_cache_hits_total'].every(
        (name) => page.total(`vllm:${name}`) === page.total(`coppice_${name}`),
      );
    });
    for (const name of [
      'num_requests_running',
      'num_requests_waiting',
      'kv_cache_usage_perc',
      'gpu_cache_usage_perc',
    ])
      expect(page.total(`vllm:${name}`)).toBe(0);
    for (const name of ['gpu_prefix_cache_hit_rate', 'cache_config_info'])
      expect(page.families.has(`vllm:${name}`), name).toBe(true);
    expect(page.total('vllm:prefix_cache_queries_total')).toBeGreaterThan(0);
  });
});
