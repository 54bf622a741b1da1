/** Traces as a collector gets them from a server around the real engine. */
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Engine } from '../../src/runtime/protocol.ts';
import { listen } from '../../src/server/listen.ts';
import type { Listener } from '../../src/server/listen.ts';
import { RequestRecord } from '../../src/server/request-record.ts';
import { createTracing } from '../../src/server/tracing.ts';
import type { Tracing } from '../../src/server/tracing.ts';
import { createContext } from './support/app.ts';
import { Collector } from './support/collector.ts';
import type { Trace } from './support/collector.ts';
import { startDemoEngine } from './support/live.ts';
import { SocketClient } from './support/socket-client.ts';

let engine: Engine;
let collector: Collector;
let tracing: Tracing;
let listener: Listener;
let requestId: string;
let numRequests = 0;

beforeAll(async () => {
  engine = await startDemoEngine({ maxRunning: 1 });
  collector = await Collector.start();
  const { context } = createContext(engine, { port: '0', 'log.prompts': 'true' });
  const created = await createTracing(collector.url, {
    logger: context.logger,
    version: '1.2.3',
    batchMs: 20,
  });
  tracing = created!;
  listener = await listen({ ...context, tracing });
});

afterAll(async () => {
  await listener.drain(0);
  await engine.close();
  await tracing.close(1000);
  await collector.close();
});

beforeEach(() => {
  requestId = `test-${numRequests++}`;
});

/** A request that nothing is known of. */
function endRequest(tracer: Tracing): void {
  const record = new RequestRecord();
  const headers = { traceparent: undefined, tracestate: undefined };
  tracer.watch(record, { requestId: 'x', path: '/v1/completions', method: 'POST' }, headers);
  record.end();
}

const SECRET = 'the brass key of the mill';
const chatBody = {
  model: 'coppice-recall',
  messages: [{ role: 'user', content: `${SECRET}. What does the keeper hold?` }],
  temperature: 0,
  max_tokens: 8,
};

const post = (path: string, body: object, headers: Record<string, string> = {}, signal?: AbortSignal) =>
  fetch(listener.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-request-id': requestId, ...headers },
    body: JSON.stringify(body),
    ...(signal && { signal }),
  });
const chat = (body: object = {}, headers?: Record<string, string>, signal?: AbortSignal) =>
  post('/v1/chat/completions', { ...chatBody, ...body }, headers, signal);
const ALL = ['queue', 'prefill', 'decode'];
const names = ({ children }: Trace) => children.map(({ name }) => name);

/** Phases follow each other within the request, in the order in which they are sent. */
function expectOrder({ root, children }: Trace, startedMs: number) {
  const times = children.flatMap(({ startMs, endMs }) => [startMs, endMs]);
  // Nanoseconds since 1970 have more digits than numbers.
  const isAfter = (late: number, early: number) => {
    expect(late - early).toBeGreaterThan(-0.01);
  };
  times.forEach((ms, i) => {
    if (i > 0) isAfter(ms, times[i - 1]!);
  });
  isAfter(times.at(0) ?? root.startMs, root.startMs);
  isAfter(root.endMs, times.at(-1) ?? root.startMs);
  // Date.now() counts whole milliseconds.
  expect(root.startMs).toBeGreaterThan(startedMs - 2);
  expect(root.endMs).toBeLessThan(Date.now() + 2);
  for (const child of children) expect(child).toMatchObject({ traceId: root.traceId, kind: 1 });
}

describe('a request that ran', () => {
  test('whole', async () => {
    const startedMs = Date.now();
    const response = await chat({ seed: 7, top_p: 0.9, top_k: 5, stop: [SECRET], pruning: { kv: 'snapkv' } });
    const reply = (await response.json()) as {
      id: string;
      usage: { prompt_tokens: number; completion_tokens: number };
      choices: { finish_reason: string }[];
      pruning: { kv: { bytes: number; dense_bytes: number } };
    };
    const trace = await collector.trace(requestId);
    expect(trace.root).toMatchObject({ name: 'chat coppice-recall', kind: 2, status: { code: 0 } });
    expect(trace.root.parentSpanId ?? '').toBe('');
    expect(trace.root.attributes).toEqual({
      'coppice.request.id': requestId,
      'http.route': '/v1/chat/completions',
      'http.request.method': 'POST',
      'http.response.status_code': 200,
      'network.protocol.name': 'http',
      'gen_ai.operation.name': 'chat',
      'gen_ai.provider.name': 'coppice',
      'gen_ai.system': 'coppice',
      'gen_ai.request.model': 'coppice-recall',
      'gen_ai.request.max_tokens': 8,
      'gen_ai.request.temperature': 0,
      'gen_ai.request.top_p': 0.9,
      'gen_ai.request.top_k': 5,
      'gen_ai.request.seed': 7,
      'coppice.request.stop_sequence_count': 1,
      'gen_ai.response.id': reply.id,
      'gen_ai.response.model': 'coppice-recall',
      'gen_ai.response.finish_reasons': [reply.choices[0]?.finish_reason],
      'gen_ai.usage.input_tokens': reply.usage.prompt_tokens,
      'gen_ai.usage.output_tokens': reply.usage.completion_tokens,
      'gen_ai.usage.cache_read.input_tokens': 0,
      'coppice.pruning.policy': 'snapkv',
      'coppice.pruning.kv_bytes': reply.pruning.kv.bytes,
      'coppice.pruning.kv_bytes_saved': reply.pruning.kv.dense_bytes - reply.pruning.kv.bytes,
    });
    expect(names(trace)).toEqual(ALL);
    expectOrder(trace, startedMs);
    expect(collector.paths[0]).toBe('/v1/traces');
    expect(collector.resources[0]).toMatchObject({ 'service.name': 'coppice', 'service.version': '1.2.3' });
  });

  test('streamed: its span ends with the last byte', async () => {
    const startedMs = Date.now();
    const response = await chat({ stream: true, max_tokens: 30, ignore_eos: true });
    const text = await response.text();
    expect(text).toContain('[DONE]');
    const trace = await collector.trace(requestId);
    expect(trace.root.attributes).toMatchObject({
      'gen_ai.usage.output_tokens': 30,
      'gen_ai.response.finish_reasons': ['length'],
      'http.response.status_code': 200,
    });
    expect(names(trace)).toEqual(ALL);
    expectOrder(trace, startedMs);
    const [, prefill, decode] = trace.children;
    expect(prefill!.endMs).toBeGreaterThan(prefill!.startMs);
    expect(decode!.endMs).toBeGreaterThan(decode!.startMs);
  });

  test('of several prompts and choices', async () => {
    const startedMs = Date.now();
    const body = {
      model: 'coppice-recall',
      prompt: ['one two', 'three'],
      n: 2,
      max_tokens: 3,
      ignore_eos: true,
    };
    expect((await post('/v1/completions', { ...body, temperature: 1 })).status).toBe(200);
    const trace = await collector.trace(requestId);
    expect(trace.root).toMatchObject({
      name: 'text_completion coppice-recall',
      attributes: {
        'gen_ai.operation.name': 'text_completion',
        'gen_ai.request.choice.count': 2,
        'coppice.request.prompt_count': 2,
        'gen_ai.usage.output_tokens': 12,
        'gen_ai.response.finish_reasons': Array.from({ length: 4 }, () => 'length'),
      },
    });
    expect(names(trace)).toEqual(ALL);
    expectOrder(trace, startedMs);
  });

  test('a response', async () => {
    const body = { model: 'coppice-recall', input: 'hello', max_output_tokens: 2 };
    const { id } = (await (await post('/v1/responses', body)).json()) as { id: string };
    const { root } = await collector.trace(requestId);
    expect(root).toMatchObject({ name: 'chat coppice-recall', attributes: { 'gen_ai.response.id': id } });
  });

  test('frames of a WebSocket, good and bad', async () => {
    const traceId = 'abcdef0123456789abcdef0123456789';
    const client = await SocketClient.open(`${listener.url}/v1/chat/completions`, {
      headers: { traceparent: `00-${traceId}-00000000000000aa-01` },
    });
    client.send({ type: 'chat.completion.create', ...chatBody, max_tokens: 2 });
    await client.until(({ type }) => type === 'chat.completion.done');
    client.send({ type: 'chat.completion.create', ...chatBody, temperature: 9 });
    await client.until(({ type }) => type === 'error');
    await client.close();
    const mine = () => collector.spans.filter((span) => span.traceId === traceId && span.kind === 2);
    await expect.poll(() => mine().length, { timeout: 30_000 }).toBe(2);
    const [good, bad] = mine().sort((a, b) => a.startMs - b.startMs);
    expect(good).toMatchObject({
      name: 'chat coppice-recall',
      parentSpanId: '00000000000000aa',
      attributes: { 'network.protocol.name': 'websocket', 'gen_ai.usage.output_tokens': 2 },
    });
    expect(good!.attributes).not.toHaveProperty(['http.request.method']);
    expect(names(await collector.trace(good!.attributes['coppice.request.id'] as string))).toEqual(ALL);
    expect(bad).toMatchObject({ name: 'chat', attributes: { 'error.type': 'invalid_request_error' } });
  });
});

describe('a request that did not', () => {
  test.each([
    ['a bad value', { temperature: 9 }, 400, 'invalid_request_error'],
    ['an unknown model', { model: 'gpt-9' }, 404, 'model_not_found'],
  ])('%s: no phase, and no fault of the server', async (_, change, status, error) => {
    expect((await chat(change)).status).toBe(status);
    const trace = await collector.trace(requestId);
    expect(trace).toMatchObject({ root: { name: 'chat', status: { code: 0 } }, children: [] });
    expect(trace.root.attributes).toMatchObject({
      'error.type': error,
      'http.response.status_code': status,
    });
  });

  test('out of time: failed, with the phases it reached', async () => {
    const startedMs = Date.now();
    const response = await chat({ max_tokens: 4000, ignore_eos: true, max_time_ms: 200 });
    expect(response.status).toBe(504);
    const trace = await collector.trace(requestId);
    expect(trace.root).toMatchObject({ status: { code: 2 }, attributes: { 'error.type': 'timeout' } });
    expect(ALL.slice(0, trace.children.length)).toEqual(names(trace));
    expect(trace.children.length).toBeGreaterThan(0);
    expectOrder(trace, startedMs);
  });

  test('cancelled in decoding and in the queue', async () => {
    const startedMs = Date.now();
    const [running, waiting] = [new AbortController(), new AbortController()];
    const endless = { stream: true, max_tokens: 4000, ignore_eos: true };
    const runningId = requestId;
    const response = await chat(endless, {}, running.signal);
    await response.body!.getReader().read();
    requestId += '-waiting';
    const waits = chat(endless, {}, waiting.signal).catch(() => 'cancelled');
    await expect.poll(async () => (await engine.stats()).waiting, { timeout: 30_000 }).toBe(1);
    waiting.abort();
    expect(await waits).toBe('cancelled');
    const queued = await collector.trace(requestId);
    expect(names(queued)).toEqual(['queue']);
    running.abort();
    const decoded = await collector.trace(runningId);
    expect(names(decoded)).toEqual(ALL);
    for (const trace of [queued, decoded]) {
      expectOrder(trace, startedMs);
      expect(trace.root).toMatchObject({ status: { code: 0 }, attributes: { 'coppice.cancelled': true } });
      expect(trace.root.attributes).not.toHaveProperty(['error.type']);
    }
  });
});

describe('traceparent', () => {
  const traceId = '0123456789abcdef0123456789abcdef';
  const parent = (flags: string) => `00-${traceId}-00000000000000b7-${flags}`;

  test('of a caller that records: the request is part of its trace', async () => {
    await chat({ max_tokens: 1 }, { traceparent: parent('01'), tracestate: 'vendor=1' });
    const { root, children } = await collector.trace(requestId);
    expect(root).toMatchObject({ traceId, parentSpanId: '00000000000000b7', traceState: 'vendor=1' });
    expect(children.map((child) => child.traceId)).toEqual([traceId, traceId, traceId]);
  });

  test('of one that does not: nothing is recorded', async () => {
    await chat({ max_tokens: 1 }, { traceparent: parent('00') });
    const unrecorded = requestId;
    requestId += '-next';
    await chat({ max_tokens: 1 });
    await collector.trace(requestId);
    expect(collector.spans.some((span) => span.attributes['coppice.request.id'] === unrecorded)).toBe(false);
  });

  test('that is none: a trace of its own', async () => {
    await chat(
      { max_tokens: 1 },
      { traceparent: `ff-${traceId}-00000000000000b7-01`, tracestate: 'vendor=1' },
    );
    const { root } = await collector.trace(requestId);
    expect(root.traceId).not.toBe(traceId);
    expect(root.parentSpanId ?? '').toBe('');
    expect(root.traceState ?? '').toBe('');
  });
});

test('other routes are not traced, and no text ever is', async () => {
  await post('/tokenize', { model: 'coppice-recall', prompt: SECRET });
  const other = requestId;
  requestId += '-next';
  const reply = (await (await chat({ max_tokens: 20, ignore_eos: true })).json()) as {
    choices: { message: { content: string } }[];
  };
  await collector.trace(requestId);
  expect(collector.text).not.toContain(other + '"');
  expect(collector.text).not.toContain(SECRET);
  expect(collector.text).not.toContain(reply.choices[0]!.message.content.trim());
});

test('what the environment says of this process goes along', async () => {
  vi.stubEnv('OTEL_RESOURCE_ATTRIBUTES', 'deployment.environment.name=test');
  vi.stubEnv('OTEL_SERVICE_NAME', 'ours');
  const other = await Collector.start();
  const { context } = createContext(null);
  const tracer = (await createTracing(other.url, { logger: context.logger, version: '1' }))!;
  vi.unstubAllEnvs();
  endRequest(tracer);
  await tracer.close(30_000);
  expect(other.resources).toMatchObject([{ 'service.name': 'ours', 'deployment.environment.name': 'test' }]);
  await other.close();
});

describe('a collector that fails', () => {
  test('is warned of once, however often it does', async () => {
    const failing = await Collector.start(400);
    const { context, log } = createContext(null);
    const options = { logger: context.logger, version: '1', batchMs: 5 };
    const tracer = (await createTracing(failing.url, options))!;
    for (let numBatches = 1; numBatches <= 3; numBatches++) {
      endRequest(tracer);
      await expect.poll(() => failing.paths.length, { timeout: 30_000 }).toBe(numBatches);
    }
    await tracer.close(1000);
    const warnings = log().filter(({ msg }) => (msg as string).includes('traces could not be sent'));
    expect(warnings).toMatchObject([{ level: 40, numLost: 1 }]);
    await failing.close();
  });

  test('does not hold up the end', async () => {
    const silent = await Collector.start(null);
    const { context, log } = createContext(null);
    const tracer = (await createTracing(`${silent.url}/v1/traces/`, {
      logger: context.logger,
      version: '1',
    }))!;
    endRequest(tracer);
    const startedMs = performance.now();
    await tracer.close(50);
    // Less than an export may take.
    expect(performance.now() - startedMs).toBeLessThan(4000);
    await expect.poll(() => silent.paths, { timeout: 30_000 }).toEqual(['/v1/traces']);
    expect(log()).toEqual([]);
    await silent.close();
  });

  test('whose address is none ends the start', async () => {
    const { context } = createContext(null);
    await expect(createTracing('http://', { logger: context.logger, version: '1' })).rejects.toMatchObject({
      errorCode: 'startup',
      param: 'tracing.otlp_endpoint',
    });
  });
});
