/** The metrics page: what exists at once, and that every number is the one that replies and the engine say. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GREEDY } from '../../src/runtime/protocol.ts';
import type { EngineEvent, PruningReport } from '../../src/runtime/protocol.ts';
import { FAMILIES } from '../../src/policies/index.ts';
import { Metrics } from '../../src/server/metrics.ts';
import { createTestServer, parseEvents, readEvents } from './support/app.ts';
import type { TestServer } from './support/app.ts';
import { Exposition } from './support/exposition.ts';
import { startDemoEngine, startLiveServer } from './support/live.ts';
import type { LiveServer } from './support/live.ts';
import { COUNTERS, GAUGES, HISTOGRAMS, LIMITS } from './support/metric-names.ts';
import { ScriptedEngine, done, finished, saying, token } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const COMPLETIONS = '/v1/completions';
const messages = [{ role: 'user', content: 'hello' }];
const none = { policy: 'none' };

const VLLM = [
  'num_requests_running',
  'num_requests_waiting',
  'kv_cache_usage_perc',
  'gpu_cache_usage_perc',
  'gpu_prefix_cache_hit_rate',
  'prefix_cache_queries_total',
  'prefix_cache_hits_total',
  'cache_config_info',
];

async function scrape(server: TestServer): Promise<Exposition> {
  return new Exposition(await (await server.app.request('/metrics')).text());
}

const STATS = {
  running: 3,
  waiting: 2,
  parked: 0,
  kvBytes: 600,
  kvBytesByKind: { dense: 300, retrieval: 200, streaming: 90, pruned: 10 },
  prefixCacheBytes: 50,
  kvLimitBytes: 1000,
  kvLimitTokens: 100,
  preemptions: 4,
  promptTokens: 80,
  cachedTokens: 20,
  generatedTokens: 9,
};

describe('before the first request', () => {
  test.each([true, false])('every family exists, model loaded: %s', async (isLoaded) => {
    const server = createTestServer(isLoaded ? new ScriptedEngine(saying([300])) : null);
    const response = await server.app.request('/metrics');
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    const { families } = new Exposition(await response.text());
    const expected = [...GAUGES, ...LIMITS, ...COUNTERS, ...HISTOGRAMS].map((name) => `coppice_${name}`);
    expect([...families.keys()].sort()).toEqual(expected.sort());
    for (const [name, { type, samples }] of families) {
      expect(samples.length, name).toBeGreaterThan(0);
      const ending = name.endsWith('_total') ? 'counter' : 'gauge';
      expect(type).toBe(HISTOGRAMS.includes(name.replace('coppice_', '')) ? 'histogram' : ending);
      for (const { value, labels } of samples) {
        expect(value, name).toBe(0);
        expect(labels['model_name']).toBe('coppice-recall');
      }
    }
  });

  test('fixed labels are there', async () => {
    const page = await scrape(createTestServer(new ScriptedEngine(saying([300]))));
    for (const kind of ['dense', 'retrieval', 'streaming', 'pruned'])
      expect(page.value('coppice_kv_bytes', { kind })).toBe(0);
    for (const finish_reason of ['stop', 'length'])
      expect(page.value('coppice_request_success_total', { finish_reason })).toBe(0);
    for (const code of ['queue_full', 'timeout', 'invalid_request_error', 'server_error'])
      expect(page.value('coppice_request_errors_total', { code })).toBe(0);
    expect(page.value('coppice_pruning_requests_total', { policy: 'lazyllm' })).toBe(0);
    for (const name of HISTOGRAMS) expect(page.value(`coppice_${name}_count`, none)).toBe(0);
  });

  test('apps share nothing', async () => {
    const [one, other] = [0, 1].map(() => createTestServer(new ScriptedEngine(saying([300]))));
    await one!.post(CHAT, { messages });
    expect((await scrape(one!)).total('coppice_prompt_tokens_total')).toBeGreaterThan(0);
    expect((await scrape(other!)).total('coppice_prompt_tokens_total')).toBe(0);
  });
});

describe('the state of the engine', () => {
  test('is what it told last, and asks it nothing', async () => {
    const engine = new ScriptedEngine(saying([300]));
    engine.lastStats = STATS;
    const page = await scrape(createTestServer(engine));
    const values = [...GAUGES, ...LIMITS].map((name) => [name, page.value(`coppice_${name}`)]);
    expect(Object.fromEntries(values)).toEqual({
      requests_running: 3,
      requests_waiting: 2,
      kv_bytes: null,
      kv_usage_ratio: 0.6,
      prefix_cache_bytes: 50,
      kv_bytes_limit: 1000,
    });
    for (const [kind, bytes] of Object.entries(STATS.kvBytesByKind))
      expect(page.value('coppice_kv_bytes', { kind })).toBe(bytes);
    expect(page.value('coppice_preemptions_total')).toBe(4);
    expect(page.value('coppice_prefix_cache_queries_total')).toBe(80);
    expect(page.value('coppice_prefix_cache_hits_total')).toBe(20);
  });

  test('metrics.compat adds the names of vLLM, and nothing else changes', async () => {
    const engine = new ScriptedEngine(saying([300]));
    engine.lastStats = STATS;
    const plain = await scrape(createTestServer(engine));
    const { families, ...page } = await scrape(createTestServer(engine, { 'metrics.compat': 'vllm' }));
    expect(page).toEqual({});
    const added = [...families.keys()].filter((name) => !plain.families.has(name));
    expect(added.sort()).toEqual(VLLM.map((name) => `vllm:${name}`).sort());
    const samples = VLLM.map((name) => families.get(`vllm:${name}`)?.samples);
    const model_name = 'coppice-recall';
    expect(samples.map((all) => all?.map(({ value }) => value))).toEqual(
      [3, 2, 0.6, 0.6, 0.25, 80, 20, 1].map((value) => [value]),
    );
    expect(samples.at(-1)?.[0]?.labels).toEqual({ block_size: '16', num_gpu_blocks: '6', model_name });
  });
});

describe('requests', () => {
  test.each([false, true])('counters rise by what usage says, streamed: %s', async (stream) => {
    const server = createTestServer(new ScriptedEngine(saying([300, 301, 302], 'length')));
    const body = { messages, n: 2, stream, ...(stream && { stream_options: { include_usage: true } }) };
    const response = await server.post(CHAT, body);
    type Reply = { usage?: Record<string, number> | null };
    const replies = stream
      ? parseEvents<Reply>(await readEvents(response))
      : [(await response.json()) as Reply];
    const usage = replies.at(-1)?.usage;
    const page = await scrape(server);
    expect(usage).toMatchObject({ completion_tokens: 6 });
    expect(page.value('coppice_prompt_tokens_total')).toBe(usage?.['prompt_tokens']);
    expect(page.value('coppice_generation_tokens_total')).toBe(6);
    expect(page.value('coppice_request_success_total', { finish_reason: 'length' })).toBe(2);
    expect(page.value('coppice_request_success_total', { finish_reason: 'stop' })).toBe(0);
    expect(page.value('coppice_inter_token_latency_seconds_count', none)).toBe(4);
    const sums = HISTOGRAMS.map((name) => [name, page.value(`coppice_${name}_sum`, none)]);
    expect(Object.fromEntries(sums)).toMatchObject({
      time_to_first_token_seconds: 0.025,
      request_queue_time_seconds: 0.001,
      request_prefill_time_seconds: 0.02,
      request_decode_time_seconds: 0.1,
      time_per_output_token_seconds: 0.05,
      request_prompt_tokens: usage?.['prompt_tokens'],
      request_generation_tokens: 6,
    });
    for (const name of HISTOGRAMS.filter((name) => name !== 'inter_token_latency_seconds'))
      expect(page.value(`coppice_${name}_count`, none), name).toBe(1);
    expect(page.total('coppice_request_errors_total') + page.total('coppice_requests_cancelled_total')).toBe(
      0,
    );
  });

  test('a gap is between arrivals of one choice, however late the reply is read', async () => {
    const at = (choice: number, arrivedMs: number): EngineEvent =>
      ({ ...token(300, choice), arrivedMs }) as EngineEvent;
    const engine = new ScriptedEngine(function* (request) {
      yield* [
        at(0, 1000),
        at(1, 1400),
        at(0, 1012),
        at(1, 1407),
        finished('length', 0),
        finished('length', 1),
      ];
      yield done(request, 4);
    });
    const server = createTestServer(engine);
    await server.post(CHAT, { messages, n: 2 });
    const page = await scrape(server);
    expect(page.value('coppice_inter_token_latency_seconds_count', none)).toBe(2);
    expect(page.value('coppice_inter_token_latency_seconds_sum', none)).toBeCloseTo(0.019, 9);
  });

  test('tokens after a stop string count nowhere', async () => {
    const server = createTestServer(new ScriptedEngine(saying([300, 301, 302, 303], 'length')));
    const whole = (await (await server.post(CHAT, { messages, stop: 'in' })).json()) as {
      usage: { completion_tokens: number };
    };
    const page = await scrape(server);
    const tokens = whole.usage.completion_tokens;
    expect(tokens).toBe(2);
    expect(page.value('coppice_generation_tokens_total')).toBe(tokens);
    expect(page.value('coppice_inter_token_latency_seconds_count', none)).toBe(tokens - 1);
  });

  test('a single token has no time per output token', async () => {
    const server = createTestServer(new ScriptedEngine(saying([300])));
    await server.post(CHAT, { messages });
    const page = await scrape(server);
    expect(page.value('coppice_time_per_output_token_seconds_count', none)).toBe(0);
    expect(page.value('coppice_time_to_first_token_seconds_count', none)).toBe(1);
  });

  test.each([false, true])(
    'an error of the engine counts once and nothing else, streamed: %s',
    async (stream) => {
      const engine = new ScriptedEngine(function* () {
        yield token(300);
        yield { type: 'error', code: 'kv_memory_exceeded', message: 'full', param: null };
      });
      const server = createTestServer(engine);
      await (await server.post(CHAT, { messages, stream })).text();
      const page = await scrape(server);
      expect(page.value('coppice_request_errors_total', { code: 'kv_memory_exceeded' })).toBe(1);
      expect(page.total('coppice_request_errors_total')).toBe(1);
      for (const name of ['prompt_tokens_total', 'generation_tokens_total', 'request_success_total'])
        expect(page.total(`coppice_${name}`)).toBe(0);
      expect(page.total('coppice_requests_cancelled_total')).toBe(0);
    },
  );

  test('refused requests count by code, else by type; probes do not count', async () => {
    const server = createTestServer(new ScriptedEngine(saying([300])));
    await server.post(CHAT, { messages: 5 });
    await server.post(CHAT, { messages, model: 'other' });
    await server.app.request('/nowhere');
    server.context.models.startDraining();
    await server.post(CHAT, { messages });
    for (const path of ['/ready', '/health']) await server.app.request(path);
    const page = await scrape(server);
    for (const code of ['invalid_request_error', 'model_not_found', 'not_found', 'draining'])
      expect(page.value('coppice_request_errors_total', { code }), code).toBe(1);
    expect(page.total('coppice_request_errors_total')).toBe(4);
  });

  test('a client that leaves counts once, one that read all does not', async () => {
    const server = createTestServer(
      new ScriptedEngine(async function* (request) {
        yield token(300);
        if (request.maxTokens > 5) await new Promise((resolve) => setTimeout(resolve, 20));
        yield token(301);
        yield finished('length');
        yield done(request, 2);
      }),
    );
    const slow = await server.post(CHAT, { messages, stream: true, max_tokens: 6 });
    const reader = slow.body!.getReader();
    await reader.read();
    await reader.cancel();
    const whole = await server.post(CHAT, { messages, stream: true, max_tokens: 2 });
    await whole.text();
    await expect
      .poll(async () => (await scrape(server)).value('coppice_requests_cancelled_total'), { timeout: 1000 })
      .toBe(1);
    const page = await scrape(server);
    expect(page.total('coppice_request_success_total')).toBe(1);
    expect(page.value('coppice_generation_tokens_total')).toBe(2);
    expect(page.total('coppice_request_errors_total')).toBe(0);
  });
});

describe('pruning', () => {
  const tokens = {
    seen: 40,
    stages: [
      { layer: 1, seen: 40, kept: 30 },
      { layer: 3, seen: 30, kept: 12 },
    ],
    rowsComputed: 150,
    layers: 6,
    revived: 7,
    auxBytes: 64,
  };
  const kv = {
    bytes: 300,
    peakBytes: 900,
    denseBytes: 1000,
    entriesKept: 30,
    entriesSeen: 100,
    retrievalHeads: null,
    streamingHeads: null,
  };

  async function afterOne(pruning: unknown, report: PruningReport): Promise<Exposition> {
    const engine = new ScriptedEngine(function* (request) {
      yield* [token(300), token(301), finished('length')];
      yield { ...done(request, 2), pruning: report } as EngineEvent;
    });
    const server = createTestServer(engine);
    const response = await server.post(CHAT, { messages, pruning });
    expect(response.status).toBe(200);
    return scrape(server);
  }

  test('both families under one label, tokens as they reached the last layer', async () => {
    const asked = { kv: { policy: 'snapkv' }, tokens: { policy: 'lazyllm', prefill_only: true } };
    const page = await afterOne(asked, { tokens, kv, layers: null });
    const policy = 'lazyllm+snapkv';
    const of = (name: string, labels: object = {}) =>
      page.value(`coppice_pruning_${name}`, { policy, ...labels });
    expect(of('requests_total')).toBe(1);
    expect(of('tokens_seen_total', { family: 'tokens' })).toBe(40);
    expect(of('tokens_kept_total', { family: 'tokens' })).toBe(12);
    expect(of('tokens_seen_total', { family: 'kv' })).toBe(100);
    expect(of('tokens_kept_total', { family: 'kv' })).toBe(30);
    expect(of('revived_tokens_total')).toBe(7);
    expect(of('kv_bytes_saved_total')).toBe(700);
    for (const name of HISTOGRAMS) expect(page.value(`coppice_${name}_count`, { policy }), name).toBe(1);
    expect(page.value('coppice_e2e_request_latency_seconds_count', none)).toBe(0);
  });

  test('without a cut all tokens reach the last layer; bytes are never lost', async () => {
    const report = {
      tokens: { ...tokens, stages: [] },
      kv: { ...kv, bytes: 1100 },
      layers: null,
    };
    const page = await afterOne({ tokens: { policy: 'lazyllm', prefill_only: true }, kv: 'snapkv' }, report);
    const policy = 'lazyllm+snapkv';
    expect(page.value('coppice_pruning_tokens_kept_total', { policy, family: 'tokens' })).toBe(40);
    expect(page.value('coppice_pruning_kv_bytes_saved_total', { policy })).toBe(0);
  });

  test('combinations without number share the label "custom"', () => {
    const server = createTestServer(new ScriptedEngine(saying([300])));
    const { models } = server.context;
    const metrics = new Metrics({ models, compat: [] });
    const label = (...names: string[]) => {
      const families = names.map((policy, i) => [FAMILIES[i], { policy, options: {} }] as const);
      return metrics.policyLabel({ preset: null, families: Object.fromEntries(families) as object });
    };
    const labels = Array.from({ length: 20 }, (_, i) => label('lazyllm', `kv${i}`));
    expect(labels.filter((name) => name === 'custom')).toHaveLength(4);
    expect(label('lazyllm', 'kv0')).toBe('lazyllm+kv0');
    expect(label('lazyllm')).toBe('lazyllm');
    expect(metrics.policyLabel({ preset: 'mine', families: {} })).toBe('mine');
    expect(metrics.policyLabel(null)).toBe('none');
  });

  test('a preset is one label, and "none" is no pruning', async () => {
    const policy = 'half';
    const presets = { half: { pruning: { kv: { policy: 'snapkv', keep: 0.5 } } } };
    const flags = { 'pruning.presets': JSON.stringify(presets) };
    const server = createTestServer(new ScriptedEngine(saying([300, 301])), flags);
    const reply = await server.post(CHAT, { messages, pruning: policy });
    expect(await reply.json()).toMatchObject({ pruning: { preset: policy } });
    await server.post(CHAT, { messages, pruning: 'none' });
    const page = await scrape(server);
    expect(page.total('coppice_pruning_requests_total')).toBe(1);
    expect(page.value('coppice_pruning_requests_total', { policy })).toBe(1);
    expect(page.value('coppice_time_to_first_token_seconds_count', { policy })).toBe(1);
    expect(page.value('coppice_time_to_first_token_seconds_count', none)).toBe(1);
  });
});

describe('around the demo model', () => {
  let live: LiveServer;
  const page = async () => new Exposition(await (await fetch(`${live.listener.url}/metrics`)).text());
  const value = async (name: string, labels = {}) => (await page()).value(`coppice_${name}`, labels);
  beforeAll(async () => {
    live = await startLiveServer();
  });
  afterAll(() => live.close());

  test('sums of usage, limits from the start, gauges that rise and fall', async () => {
    expect(await value('kv_bytes_limit')).toBe(2 ** 28);
    const prompt = `${'The key of the red door is under the old stone. '.repeat(12)}The key`;
    const sum = { prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0 };
    for (const body of [
      { prompt, max_tokens: 8 },
      { prompt, max_tokens: 8, n: 2, ignore_eos: true },
      { prompt: ['one', 'two three'], max_tokens: 4, ignore_eos: true },
    ]) {
      const reply = (await (await live.post(COMPLETIONS, body)).json()) as {
        usage: { prompt_tokens: number; completion_tokens: number } & {
          prompt_tokens_details: { cached_tokens: number };
        };
      };
      sum.prompt_tokens += reply.usage.prompt_tokens;
      sum.completion_tokens += reply.usage.completion_tokens;
      sum.cached_tokens += reply.usage.prompt_tokens_details.cached_tokens;
    }
    const after = await page();
    expect(after.value('coppice_prompt_tokens_total')).toBe(sum.prompt_tokens);
    expect(after.value('coppice_generation_tokens_total')).toBe(sum.completion_tokens);
    expect(sum.cached_tokens).toBeGreaterThan(0);
    await expect.poll(() => value('prefix_cache_hits_total')).toBe(sum.cached_tokens);
    expect(await value('prefix_cache_queries_total')).toBe(sum.prompt_tokens);
    expect(after.total('coppice_request_success_total')).toBe(5);
    expect(await value('prefix_cache_bytes')).toBeGreaterThan(0);
  });

  test('a stream that is left: gauges are up while it runs, back at zero within a second', async () => {
    const controller = new AbortController();
    const body = { prompt: 'one', max_tokens: 4000, ignore_eos: true, stream: true };
    const response = await live.post(COMPLETIONS, body, { signal: controller.signal });
    await response.body!.getReader().read();
    await expect.poll(() => value('requests_running')).toBe(1);
    expect(await value('kv_bytes', { kind: 'dense' })).toBeGreaterThan(0);
    expect(await value('kv_usage_ratio')).toBeGreaterThan(0);
    controller.abort();
    const zero = async () => {
      const now = await page();
      return GAUGES.reduce((sum, name) => sum + now.total(`coppice_${name}`), 0);
    };
    await expect.poll(zero, { timeout: 1000, interval: 20 }).toBe(0);
    expect(await value('requests_cancelled_total')).toBe(1);
  });

  test('scrapes are answered fast while the engine computes', async () => {
    const body = { prompt: 'one '.repeat(4000), max_tokens: 200, ignore_eos: true, cache_prompt: false };
    const controller = new AbortController();
    const running = live.post(COMPLETIONS, body, { signal: controller.signal }).catch(() => null);
    await expect.poll(() => value('requests_running')).toBe(1);
    const times: number[] = [];
    for (let i = 0; i < 20; i++) {
      const startedMs = performance.now();
      await (await fetch(`${live.listener.url}/metrics`)).text();
      times.push(performance.now() - startedMs);
    }
    times.sort((a, b) => a - b);
    expect(times[10]).toBeLessThan(30); // of both client and server on a busy machine
    expect(await value('requests_running')).toBe(1);
    controller.abort();
    await running;
  });
});

test('counters do not fall and gauges empty when the engine dies', async () => {
  const workerUrl = new URL('../fixtures/workers/crashing.mjs', import.meta.url);
  const engine = await startDemoEngine({ workerUrl });
  const live = await startLiveServer({}, engine);
  const page = async () => new Exposition(await (await fetch(`${live.listener.url}/metrics`)).text());
  const totals = async () => {
    const now = await page();
    return COUNTERS.map((name) => now.total(`coppice_${name}`));
  };
  await live.post(COMPLETIONS, { prompt: 'one two three four', max_tokens: 8, ignore_eos: true });
  const endless = live.post(COMPLETIONS, { prompt: 'one', max_tokens: 4000, ignore_eos: true });
  await expect.poll(async () => (await page()).value('coppice_requests_running')).toBe(1);
  const before = await totals();
  expect((await page()).value('coppice_prefix_cache_queries_total')).toBeGreaterThan(4);
  for await (const event of engine.generate({
    id: 'crash',
    promptIds: Int32Array.of(1),
    numChoices: 1,
    sampling: GREEDY,
    maxTokens: 1,
    minTokens: 0,
    stopTokenIds: [],
    promptLogprobs: null,
    constraint: null,
    priority: 0,
    cachePrompt: true,
    reportProgress: false,
    pruning: null,
  }))
    expect(event.type).toBe('error');
  expect((await endless).status).toBe(500);
  const dead = await page();
  for (const name of [...GAUGES, 'prefix_cache_bytes']) expect(dead.total(`coppice_${name}`), name).toBe(0);
  expect(dead.value('coppice_request_errors_total', { code: 'server_error' })).toBe(1);
  await expect.poll(() => engine.isReady, { timeout: 20_000 }).toBe(true);
  const restarted = await totals();
  restarted.forEach((value, i) => {
    expect(value, COUNTERS[i]).toBeGreaterThanOrEqual(before[i] ?? 0);
  });
  const queries = (await page()).value('coppice_prefix_cache_queries_total') ?? 0;
  await live.post(COMPLETIONS, { prompt: 'one two three four', max_tokens: 2 });
  await expect
    .poll(async () => (await page()).value('coppice_prefix_cache_queries_total'))
    .toBeGreaterThan(queries);
  await live.close();
});
