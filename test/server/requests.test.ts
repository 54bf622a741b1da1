/** What reaches the engine: defaults, null for absent, every field; and what every reply's headers say. */
import { describe, expect, test } from 'vitest';
import { createTestServer } from './support/app.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const COMPLETIONS = '/v1/completions';
const hello = [{ role: 'user', content: 'hello' }];

async function submitted(path: string, body: object) {
  const engine = new ScriptedEngine(saying([300]));
  const response = await createTestServer(engine).post(path, body);
  expect(response.status).toBe(200);
  return engine.requests;
}

describe('defaults', () => {
  test('chat: those of generation_config.json, where do_sample is false', async () => {
    const [request] = await submitted(CHAT, { messages: hello });
    expect(request).toMatchObject({
      numChoices: 1,
      maxTokens: 256,
      minTokens: 0,
      stopTokenIds: [2, 0],
      promptLogprobs: null,
      constraint: null,
      priority: 0,
      cachePrompt: true,
      reportProgress: false,
      sampling: {
        temperature: 0,
        topP: 1,
        topK: 0,
        minP: 0,
        repetitionPenalty: 1,
        presencePenalty: 0,
        frequencyPenalty: 0,
        logitBias: [],
        seed: null,
        logprobs: null,
      },
    });
  });

  test('completions: 16 tokens', async () => {
    const [request] = await submitted(COMPLETIONS, { prompt: 'a' });
    expect(request?.maxTokens).toBe(16);
  });

  test('null means absent', async () => {
    const names = [
      'temperature',
      'top_p',
      'n',
      'stop',
      'seed',
      'max_tokens',
      'logit_bias',
      'logprobs',
      'stream',
      'stream_options',
    ];
    const [request] = await submitted(CHAT, {
      messages: hello,
      ...Object.fromEntries(names.map((name) => [name, null])),
    });
    expect(request?.maxTokens).toBe(256);
  });
});

test('every field reaches the engine', async () => {
  const [request] = await submitted(CHAT, {
    messages: hello,
    n: 3,
    max_completion_tokens: 50,
    min_tokens: 4,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    repetition_penalty: 1.1,
    presence_penalty: 0.2,
    frequency_penalty: -0.3,
    logit_bias: { 7: -100, 1535: 1.5 },
    seed: -5,
    logprobs: true,
    top_logprobs: 4,
    stop_token_ids: [9],
    priority: -2,
    cache_prompt: false,
    stream: true,
    return_progress: true,
  });
  expect(request).toMatchObject({
    numChoices: 3,
    maxTokens: 50,
    minTokens: 4,
    stopTokenIds: [2, 0, 9],
    priority: -2,
    cachePrompt: false,
    reportProgress: true,
    sampling: {
      temperature: 0.5,
      topP: 0.9,
      topK: 40,
      minP: 0.05,
      repetitionPenalty: 1.1,
      presencePenalty: 0.2,
      frequencyPenalty: -0.3,
      logitBias: [
        [7, -100],
        [1535, 1.5],
      ],
      seed: -5,
      logprobs: 4,
    },
  });
});

test('top_p 0 keeps the most probable token alone; top_k -1 is off', async () => {
  const [request] = await submitted(CHAT, { messages: hello, temperature: 1, top_p: 0, top_k: -1 });
  expect(request?.sampling.topP).toBeGreaterThan(0);
  expect(request?.sampling.topP).toBeLessThan(1e-6);
  expect(request?.sampling.topK).toBe(0);
});

test('ignore_eos leaves only stop_token_ids', async () => {
  const [request] = await submitted(CHAT, { messages: hello, ignore_eos: true, stop_token_ids: [9] });
  expect(request?.stopTokenIds).toEqual([9]);
});

test('logprobs without top_logprobs asks for the chosen token alone', async () => {
  const [chat] = await submitted(CHAT, { messages: hello, logprobs: true });
  const [completion] = await submitted(COMPLETIONS, { prompt: 'a', logprobs: 0 });
  expect([chat?.sampling.logprobs, completion?.sampling.logprobs]).toEqual([0, 0]);
});

describe('prompts of completions', () => {
  test.each([
    [[5, 6, 7], [[5, 6, 7]]],
    [
      [[5, 6], [7]],
      [[5, 6], [7]],
    ],
  ])('ids %j', async (prompt, expected) => {
    const requests = await submitted(COMPLETIONS, { prompt });
    expect(requests.map(({ promptIds }) => [...promptIds])).toEqual(expected);
  });

  test('control-token text in a text prompt is a control token', async () => {
    const [request] = await submitted(COMPLETIONS, { prompt: 'a<|im_end|>' });
    expect([...(request?.promptIds ?? [])].at(-1)).toBe(2);
  });

  test('several texts are those texts alone', async () => {
    const together = await submitted(COMPLETIONS, { prompt: ['one', 'two and'] });
    const [one] = await submitted(COMPLETIONS, { prompt: 'one' });
    const [two] = await submitted(COMPLETIONS, { prompt: 'two and' });
    expect(together.map(({ promptIds }) => [...promptIds])).toEqual([
      [...(one?.promptIds ?? [])],
      [...(two?.promptIds ?? [])],
    ]);
    expect(new Set(together.map(({ id }) => id)).size).toBe(2);
  });
});

test('two requests with one x-request-id are two requests of the engine', async () => {
  const engine = new ScriptedEngine(saying([300]));
  const server = createTestServer(engine);
  const headers = { 'x-request-id': 'same' };
  await Promise.all([1, 2].map(() => server.post(CHAT, { messages: hello }, headers)));
  expect(new Set(engine.requests.map(({ id }) => id)).size).toBe(2);
});

describe('chat prompts', () => {
  async function promptText(messages: object[]): Promise<string> {
    const server = createTestServer(new ScriptedEngine(saying([300])));
    const { tokens } = (await (await server.post('/tokenize', { messages })).json()) as { tokens: number[] };
    const { prompt } = (await (await server.post('/detokenize', { tokens })).json()) as { prompt: string };
    return prompt;
  }

  test('the generation prompt is included; text parts are joined by a newline', async () => {
    const content = [
      { type: 'text', text: 'a' },
      { type: 'text', text: 'b' },
    ];
    expect(await promptText([{ role: 'user', content }])).toBe(
      '<|endoftext|><|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  test('developer is the successor of system', async () => {
    expect(await promptText([{ role: 'developer', content: 'x' }])).toBe(
      await promptText([{ role: 'system', content: 'x' }]),
    );
  });

  test('/tokenize gives what a chat runs on, control-token text stays text', async () => {
    const messages = [{ role: 'user', content: 'say <|im_end|>' }];
    const engine = new ScriptedEngine(saying([300]));
    const server = createTestServer(engine);
    await server.post(CHAT, { messages });
    const body = (await (await server.post('/tokenize', { messages })).json()) as {
      tokens: number[];
      count: number;
    };
    expect(body.tokens).toEqual([...(engine.requests[0]?.promptIds ?? [])]);
    expect(body.count).toBe(body.tokens.length);
    expect(body.tokens.filter((id) => id === 2)).toHaveLength(1);
  });
});

describe('headers', () => {
  const server = createTestServer(new ScriptedEngine(saying([300])));

  test.each([
    ['abc-1.2_3:4', true],
    ['x'.repeat(128), true],
    ['x'.repeat(129), false],
    ['a b', false],
    ['é', false],
    ['', false],
  ])('x-request-id %j', async (id, isSane) => {
    const response = await server.app.request('/health', { headers: { 'x-request-id': id } });
    const answered = response.headers.get('x-request-id');
    if (isSane) expect(answered).toBe(id);
    else expect(answered).toMatch(/^req-[0-9a-f-]{36}$/);
  });

  test.each([false, true])('ignored fields are named, stream: %s', async (stream) => {
    const body = { messages: hello, stream, prunning: 'balanced', user: 'me', 'a\r\nb: c': 1, 'é, ü': 2 };
    const response = await server.post(CHAT, body);
    expect(response.headers.get('x-coppice-ignored-fields')).toBe(
      'prunning, user, a%0D%0Ab%3A%20c, %C3%A9%2C%20%C3%BC',
    );
  });

  test('the list of ignored fields is bounded', async () => {
    const many = Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`field_${i}`, i]));
    const response = await server.post(CHAT, { messages: hello, ...many, ['\ud800']: 1 });
    expect(response.status).toBe(200);
    expect(response.headers.get('x-coppice-ignored-fields')).toMatch(/^field_0, .{900,1020}\.\.\.$/);
  });

  test('a body with __proto__ changes nothing', async () => {
    const response = await server.post(
      CHAT,
      `{"messages":${JSON.stringify(hello)},"__proto__":{"stream":true}}`,
    );
    expect(response.headers.get('content-type')).toContain('application/json');
  });
});

describe('models', () => {
  const server = createTestServer(new ScriptedEngine(saying([300])));

  test('list and one', async () => {
    const list = (await (await server.app.request('/v1/models')).json()) as {
      object: string;
      data: object[];
    };
    const one: unknown = await (await server.app.request('/v1/models/coppice-recall')).json();
    expect(list).toMatchObject({ object: 'list', data: [one] });
    expect(one).toMatchObject({
      id: 'coppice-recall',
      object: 'model',
      context_length: 8192,
      modalities: ['text'],
    });
  });
});
