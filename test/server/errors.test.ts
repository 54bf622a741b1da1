/** The error table, row by row: status, type, code and param; all four keys and the request id on every reply. */
import { describe, expect, test, vi } from 'vitest';
import { AppError } from '../../src/errors.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { createTestServer, readEvents } from './support/app.ts';
import type { TestServer } from './support/app.ts';
import { ScriptedEngine, done, finished, saying, token } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const COMPLETIONS = '/v1/completions';
const hello = [{ role: 'user', content: 'hello' }];
const server = createTestServer(new ScriptedEngine(saying([300, 301])));

interface Row {
  status: number;
  type?: string;
  code?: string | null;
  param?: string | null;
}

async function expectError(
  response: Response,
  { status, type, code = null, param = null }: Row,
): Promise<string> {
  const body = (await response.json()) as { error: Record<string, unknown> };
  expect(Object.keys(body)).toEqual(['error']);
  expect(Object.keys(body.error).sort()).toEqual(['code', 'message', 'param', 'type']);
  expect({ status: response.status, ...body.error }).toMatchObject({ status, code, param });
  expect(body.error.type).toBe(type ?? 'invalid_request_error');
  expect(response.headers.get('x-request-id')).toMatch(/^req-/);
  expect(body.error.message).not.toMatch(/\n|\bat .*\.ts/);
  return String(body.error.message);
}

describe('wrong values: 400 with the path of the field', () => {
  test.each([
    [CHAT, {}, 'messages'],
    [CHAT, { messages: [] }, 'messages'],
    [CHAT, { messages: 'x' }, 'messages'],
    [CHAT, { messages: [5] }, 'messages[0]'],
    [CHAT, { messages: [{ content: 'x' }] }, 'messages[0].role'],
    [CHAT, { messages: [...hello, { role: 'robot', content: 'x' }] }, 'messages[1].role'],
    [CHAT, { messages: [{ role: 'user' }] }, 'messages[0].content'],
    [CHAT, { messages: [{ role: 'assistant', content: null }] }, 'messages[0].content'],
    [CHAT, { messages: [{ role: 'user', content: [{ type: 'text' }] }] }, 'messages[0].content[0].text'],
    [CHAT, { messages: [{ role: 'user', content: [{ type: 'smell' }] }] }, 'messages[0].content[0].type'],
    [CHAT, { messages: hello, temperature: 2.1 }, 'temperature'],
    [CHAT, { messages: hello, temperature: 'hot' }, 'temperature'],
    [CHAT, { messages: hello, top_p: -0.1 }, 'top_p'],
    [CHAT, { messages: hello, top_k: 1.5 }, 'top_k'],
    [CHAT, { messages: hello, min_p: 2 }, 'min_p'],
    [CHAT, { messages: hello, repetition_penalty: 0 }, 'repetition_penalty'],
    [CHAT, { messages: hello, repetition_penalty: 5e-324 }, 'repetition_penalty'],
    [CHAT, { messages: hello, presence_penalty: 3 }, 'presence_penalty'],
    [CHAT, { messages: hello, frequency_penalty: -3 }, 'frequency_penalty'],
    [CHAT, { messages: hello, n: 0 }, 'n'],
    [CHAT, { messages: hello, n: 129 }, 'n'],
    [CHAT, { messages: hello, seed: 1.5 }, 'seed'],
    [CHAT, { messages: hello, stop: '' }, 'stop'],
    [CHAT, { messages: hello, stop: ['a', ''] }, 'stop[1]'],
    [CHAT, { messages: hello, stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop'],
    [CHAT, { messages: hello, stop_token_ids: [1536] }, 'stop_token_ids[0]'],
    [CHAT, { messages: hello, logit_bias: { 7: 101 } }, 'logit_bias.7'],
    [CHAT, { messages: hello, logit_bias: { x: 1 } }, 'logit_bias.x'],
    [CHAT, { messages: hello, logit_bias: { 1536: 1 } }, 'logit_bias.1536'],
    [CHAT, { messages: hello, max_tokens: 0 }, 'max_tokens'],
    [CHAT, { messages: hello, max_tokens: 5, max_completion_tokens: 5 }, 'max_tokens'],
    [CHAT, { messages: hello, max_tokens: 4, min_tokens: 5 }, 'min_tokens'],
    [CHAT, { messages: hello, top_logprobs: 3 }, 'top_logprobs'],
    [CHAT, { messages: hello, logprobs: true, top_logprobs: 21 }, 'top_logprobs'],
    [CHAT, { messages: hello, max_time_ms: 0 }, 'max_time_ms'],
    [CHAT, { messages: hello, priority: 'high' }, 'priority'],
    [CHAT, { messages: hello, stream: 'yes' }, 'stream'],
    [CHAT, { messages: hello, stream_options: true }, 'stream_options'],
    [CHAT, { messages: hello, return_progress: true }, 'return_progress'],
    [CHAT, { messages: hello, speculative: 'prompt-lookup' }, 'speculative'],
    [COMPLETIONS, {}, 'prompt'],
    [COMPLETIONS, { prompt: '' }, 'prompt'],
    [COMPLETIONS, { prompt: [] }, 'prompt'],
    [COMPLETIONS, { prompt: 5 }, 'prompt'],
    [COMPLETIONS, { prompt: ['a', 5] }, 'prompt[1]'],
    [COMPLETIONS, { prompt: ['a', ''] }, 'prompt[1]'],
    [COMPLETIONS, { prompt: [1, 'a'] }, 'prompt[1]'],
    [COMPLETIONS, { prompt: [1, -1] }, 'prompt[1]'],
    [COMPLETIONS, { prompt: [1, 1536] }, 'prompt[1]'],
    [COMPLETIONS, { prompt: [[1], []] }, 'prompt[1]'],
    [COMPLETIONS, { prompt: [[1], [2, 1.5]] }, 'prompt[1][1]'],
    [COMPLETIONS, { prompt: [[1], [2, 9999]] }, 'prompt[1][1]'],
    [COMPLETIONS, { prompt: 'a', max_tokens: 0 }, 'max_tokens'],
    [COMPLETIONS, { prompt: 'a', min_tokens: 17 }, 'min_tokens'],
    [COMPLETIONS, { prompt: 'a', logprobs: 6 }, 'logprobs'],
    ['/tokenize', {}, 'prompt'],
    ['/tokenize', { prompt: 'a', messages: hello }, 'prompt'],
    ['/detokenize', {}, 'tokens'],
    ['/detokenize', { tokens: 'a' }, 'tokens'],
    ['/detokenize', { tokens: [1, 'a'] }, 'tokens[1]'],
    ['/detokenize', { tokens: [1, 99999] }, 'tokens[1]'],
  ])('%s %j', async (path, body, param) => {
    const message = await expectError(await server.post(path, body), { status: 400, param });
    expect(message).toMatch(/expected/);
  });

  test.each(['', '{', 'null', '[]', '"x"', '{"messages":[}'])('body %j', async (text) => {
    await expectError(await server.post(CHAT, text), { status: 400 });
  });

  test('bytes that are not UTF-8', async () => {
    const body = new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]);
    const headers = { 'content-type': 'application/json' };
    await expectError(await server.app.request(CHAT, { method: 'POST', headers, body }), { status: 400 });
  });
});

describe('unsupported: 400 naming the field', () => {
  test.each([
    [COMPLETIONS, { prompt: 'a', suffix: 'b' }, 'suffix'],
    [COMPLETIONS, { prompt: 'a', best_of: 2 }, 'best_of'],
    [CHAT, { messages: hello, audio: {} }, 'audio'],
    [CHAT, { messages: hello, modalities: ['text', 'audio'] }, 'modalities'],
    [CHAT, { messages: hello, functions: [] }, 'functions'],
    [CHAT, { messages: hello, function_call: 'auto' }, 'function_call'],
    [CHAT, { messages: hello, background: true }, 'background'],
    [COMPLETIONS, { prompt: 'a', tools: [{ type: 'function' }] }, 'tools'],
    [COMPLETIONS, { prompt: 'a', tool_choice: 'auto' }, 'tool_choice'],
  ])('%s %j', async (path, body, param) => {
    await expectError(await server.post(path, body), { status: 400, code: 'unsupported_parameter', param });
  });

  test.each([
    [
      [
        {
          role: 'user',
          content: [{ type: 'image_url', image_url: { url: 'data:image/gif;base64,R0lGODlh' } }],
        },
      ],
      'messages[0].content[0].type',
    ],
    [
      [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'file:///etc/passwd' } }] }],
      'messages[0].content[0].image_url.url',
    ],
    [
      [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://example.org/x.png' } }] }],
      'messages[0].content[0].image_url.url',
    ],
  ])('%j', async (messages, param) => {
    await expectError(await server.post(CHAT, { messages }), {
      status: 400,
      code: 'unsupported_value',
      param,
    });
  });

  test('values that mean "off" pass', async () => {
    const off = {
      best_of: 1,
      audio: null,
      modalities: ['text'],
      functions: null,
      background: false,
      tools: [],
      tool_choice: 'none',
      response_format: { type: 'text' },
      suffix: null,
      pruning: null,
      speculative: false,
    };
    const response = await server.post(COMPLETIONS, { prompt: 'a', ...off });
    expect(response.status).toBe(200);
    expect(response.headers.get('x-coppice-ignored-fields')).toBeNull();
  });
});

describe('context length', () => {
  const sizes = /8192.*got 90\d\d: \d+ in the prompt and 9000/;

  test.each([false, true])('stream: %s, before any byte', async (stream) => {
    const response = await server.post(CHAT, { messages: hello, max_tokens: 9000, stream });
    const row = { status: 400, code: 'context_length_exceeded', param: 'max_tokens' };
    expect(await expectError(response, row)).toMatch(sizes);
  });

  test('the prompt alone', async () => {
    const prompt = Array.from({ length: 8192 }, () => 300);
    const row = { status: 400, code: 'context_length_exceeded', param: 'prompt' };
    await expectError(await server.post(COMPLETIONS, { prompt }), row);
  });

  test.each([
    [2500, /at most 8192 tokens .*got 10\d{3}: 10\d{3} in the prompt and 1 for the completion$/],
    [5000, /at most 8192 tokens .*got more than 12288 in the prompt$/],
  ])(
    'text of %i words whose tokens are too many, counted as far as it matters',
    async (numWords, expected) => {
      const row = { status: 400, code: 'context_length_exceeded' };
      const prompt = 'zyxw '.repeat(numWords);
      expect(
        await expectError(await server.post(COMPLETIONS, { prompt, max_tokens: 1 }), {
          ...row,
          param: 'prompt',
        }),
      ).toMatch(expected);
    },
  );

  test('text too long for the context whatever its tokens is refused before it is tokenised', async () => {
    const long = 'The code of red is nine. '.repeat(500_000);
    const tokenise = (['encode', 'encodeTemplated'] as const).map((name) =>
      vi.spyOn(Tokenizer.prototype, name),
    );
    const row = { status: 400, code: 'context_length_exceeded' };
    const expected = /at most 8192 tokens .*at least 9615\d\d in the prompt$/;
    const chat = { messages: [{ role: 'user', content: long }] };
    expect(await expectError(await server.post(CHAT, chat), { ...row, param: 'messages' })).toMatch(expected);
    const one = await server.post(COMPLETIONS, { prompt: long });
    expect(await expectError(one, { ...row, param: 'prompt' })).toMatch(expected);
    for (const spy of tokenise) expect(spy).not.toHaveBeenCalled();
    const second = await server.post(COMPLETIONS, { prompt: ['x', long] });
    expect(await expectError(second, { ...row, param: 'prompt[1]' })).toMatch(expected);
    for (const spy of tokenise) spy.mockRestore();
  });

  test('what fits exactly passes, and defaults shrink to what fits', async () => {
    const engine = new ScriptedEngine(saying([300]));
    const own = createTestServer(engine);
    const prompt = Array.from({ length: 8190 }, () => 300);
    expect((await own.post(COMPLETIONS, { prompt, max_tokens: 2 })).status).toBe(200);
    expect((await own.post(COMPLETIONS, { prompt })).status).toBe(200);
    expect(engine.requests.map(({ maxTokens }) => maxTokens)).toEqual([2, 2]);
  });
});

describe('routes and methods', () => {
  test('unknown route', async () => {
    await expectError(await server.app.request('/v2/nothing'), { status: 404, code: 'not_found' });
  });

  test.each([
    ['GET', CHAT, 'POST'],
    ['PUT', COMPLETIONS, 'POST'],
    ['POST', '/v1/models', 'GET, HEAD'],
    ['DELETE', '/v1/models/coppice-recall', 'GET, HEAD'],
    ['OPTIONS', '/health', 'GET, HEAD'],
  ])('%s %s', async (method, path, allow) => {
    const response = await server.app.request(path, { method });
    expect(response.headers.get('allow')).toBe(allow);
    await expectError(response, { status: 405, code: 'method_not_allowed' });
  });

  test('unknown model', async () => {
    const row = { status: 404, code: 'model_not_found', param: 'model' };
    await expectError(await server.post(CHAT, { model: 'gpt-9', messages: hello }), row);
    await expectError(await server.app.request('/v1/models/org/gpt-9'), row);
  });
});

describe('the body as a whole', () => {
  test.each(['text/plain', 'application/x-www-form-urlencoded', '', 'application/jsonx'])(
    'content-type %j',
    async (type) => {
      const response = await server.post(CHAT, { messages: hello }, { 'content-type': type });
      await expectError(response, { status: 415, code: 'unsupported_media_type' });
    },
  );

  test('a charset beside the content type passes', async () => {
    const headers = { 'content-type': 'Application/JSON; charset=utf-8' };
    expect((await server.post(CHAT, { messages: hello }, headers)).status).toBe(200);
  });

  const small = createTestServer(new ScriptedEngine(saying([300])), { 'limits.body_bytes': '200' });

  test('over the limit, by its announced length and without one', async () => {
    const body = JSON.stringify({ messages: hello, user: 'x'.repeat(200) });
    const row = { status: 413, code: 'body_too_large' };
    await expectError(await small.post(CHAT, body, { 'content-length': String(body.length) }), row);
    await expectError(await small.post(CHAT, body), row);
  });

  test('just within the limit', async () => {
    const empty = JSON.stringify({ messages: hello, user: '' });
    const body = JSON.stringify({ messages: hello, user: 'x'.repeat(200 - empty.length) });
    expect(body.length).toBe(200);
    expect((await small.post(CHAT, body)).status).toBe(200);
  });

  test.each([
    ['deep nesting', '['.repeat(500_000) + ']'.repeat(500_000)],
    ['deep objects', '{"a":'.repeat(300_000) + '1' + '}'.repeat(300_000)],
  ])('%s in an unknown field is ignored', async (_, value) => {
    const response = await server.post(CHAT, `{"messages":${JSON.stringify(hello)},"x":${value}}`);
    expect([200, 400]).toContain(response.status);
  });

  test.each([
    ['messages', `{"messages":[${'1,'.repeat(2_000_000)}1]}`],
    ['messages', `{"messages":[{"role":"user","content":[${'1,'.repeat(2_000_000)}1]}]}`],
    ['prompt[0]', `{"prompt":[${'{},'.repeat(2_000_000)}{}]}`],
  ])('millions of wrong values in %s cost one message', async (param, body) => {
    const path = param === 'messages' ? CHAT : COMPLETIONS;
    const response = await server.post(path, body);
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: { param: string; message: string } };
    expect(error.param).toMatch(/^(messages|prompt)/);
    expect(error.message.length).toBeLessThan(300);
  });
});

describe('errors of the engine', () => {
  const failing = (code: ErrorCode): TestServer =>
    createTestServer(
      new ScriptedEngine(function* () {
        yield { type: 'error', code, message: 'expected less', param: null };
      }),
    );

  test.each([
    ['kv_memory_exceeded', 503, 'server_error', 'kv_memory_exceeded'],
    ['queue_full', 429, 'rate_limit_error', 'queue_full'],
    ['model_loading', 503, 'server_error', 'model_loading'],
    ['internal', 500, 'server_error', null],
  ] as const)('%s, streamed and not', async (engineCode, status, type, code) => {
    for (const stream of [false, true]) {
      const response = await failing(engineCode).post(CHAT, { messages: hello, stream });
      expect(response.headers.get('retry-after')).toBe(status === 429 ? '1' : null);
      await expectError(response, { status, type, code });
    }
  });

  test('a bug keeps its details for the log', async () => {
    const own = createTestServer(
      new ScriptedEngine(() => {
        throw new TypeError('secret detail');
      }),
    );
    const response = await own.post(CHAT, { messages: hello }, { 'x-request-id': 'req-mine' });
    expect(await expectError(response, { status: 500, type: 'server_error' })).toContain('req-mine');
    expect(JSON.stringify(own.log())).toContain('secret detail');
  });

  test('what a driver throws through next() keeps its code', async () => {
    const own = createTestServer(
      new ScriptedEngine(() => {
        throw new AppError('queue_full', 'expected fewer requests');
      }),
    );
    const row = { status: 429, type: 'rate_limit_error', code: 'queue_full' };
    await expectError(await own.post(CHAT, { messages: hello }), row);
  });

  test('after the first byte: one error event, no [DONE], no finish_reason', async () => {
    const own = createTestServer(
      new ScriptedEngine(function* () {
        yield token(300);
        yield { type: 'error', code: 'internal', message: 'x', param: null };
      }),
    );
    const response = await own.post(CHAT, { messages: hello, stream: true });
    expect(response.status).toBe(200);
    const events = await readEvents(response);
    const last = JSON.parse(events.at(-1) ?? '') as { error: Record<string, unknown> };
    expect(last.error).toMatchObject({ type: 'server_error', code: null, param: null });
    expect(events.join()).not.toContain('[DONE]');
    expect(events.join()).not.toMatch(/"finish_reason":"/);
    expect(own.log().at(-1)).toMatchObject({ status: 200, error: 'server_error' });
  });
});

describe('max_time_ms', () => {
  const never = new Promise<never>(() => undefined);

  test.each([false, true])('nothing sent yet, stream: %s', async (stream) => {
    const engine = new ScriptedEngine(async function* () {
      yield await never;
    });
    const own = createTestServer(engine);
    const response = await own.post(CHAT, { messages: hello, stream, max_time_ms: 30 });
    await expectError(response, { status: 504, type: 'server_error', code: 'timeout', param: 'max_time_ms' });
    expect(engine.cancelled).toHaveLength(1);
  });

  test('streamed later: an error event', async () => {
    const engine = new ScriptedEngine(async function* () {
      yield token(300);
      yield await never;
    });
    const response = await createTestServer(engine).post(CHAT, {
      messages: hello,
      stream: true,
      max_time_ms: 800,
    });
    expect(response.status).toBe(200);
    const events = await readEvents(response);
    expect(JSON.parse(events.at(-1) ?? '')).toMatchObject({ error: { code: 'timeout' } });
    expect(engine.cancelled).toHaveLength(1);
  });

  test('a request that ends in time leaves no timer behind', async () => {
    const engine = new ScriptedEngine(function* (request) {
      yield finished();
      yield done(request, 0);
    });
    expect((await createTestServer(engine).post(CHAT, { messages: hello, max_time_ms: 10_000 })).status).toBe(
      200,
    );
    expect(engine.cancelled).toEqual([]);
  });
});

describe('loading, restarting, draining', () => {
  test('loading: health 200, ready and work 503', async () => {
    const loading = createTestServer(null);
    const row = { status: 503, type: 'server_error', code: 'model_loading' };
    expect((await loading.app.request('/health')).status).toBe(200);
    await expectError(await loading.app.request('/ready'), row);
    await expectError(await loading.app.request('/v1/models'), row);
    await expectError(await loading.post(CHAT, 'not even JSON'), row);
  });

  test('the engine restarts', async () => {
    const engine = new ScriptedEngine(saying([300]));
    const own = createTestServer(engine);
    engine.isReady = false;
    await expectError(await own.app.request('/ready'), {
      status: 503,
      type: 'server_error',
      code: 'model_loading',
    });
    engine.isReady = true;
    expect((await own.app.request('/ready')).status).toBe(200);
  });

  test('draining: health 200, ready and new work 503', async () => {
    const own = createTestServer(new ScriptedEngine(saying([300])));
    own.context.models.startDraining();
    const row = { status: 503, type: 'server_error', code: 'draining' };
    expect((await own.app.request('/health')).status).toBe(200);
    await expectError(await own.app.request('/ready'), row);
    await expectError(await own.post(CHAT, { messages: hello }), row);
  });
});
