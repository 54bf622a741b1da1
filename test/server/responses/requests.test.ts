/** What a request for a response is refused for, and what of it reaches the engine. */
import { describe, expect, test } from 'vitest';
import { createTestServer } from '../support/app.ts';
import { ScriptedEngine, done, finished, saying, token } from '../support/scripted-engine.ts';
import type { AnyEvent } from './event-order.ts';

const RESPONSES = '/v1/responses';

interface ErrorReply {
  error: { message: string; type: string; param: string | null; code: string | null };
}

async function refused(body: object): Promise<ErrorReply['error'] & { status: number }> {
  const engine = new ScriptedEngine(saying([300]));
  const reply = await createTestServer(engine).post(RESPONSES, body);
  expect(engine.requests).toEqual([]);
  return { ...((await reply.json()) as ErrorReply).error, status: reply.status };
}

async function submitted(body: object) {
  const engine = new ScriptedEngine(saying([300]));
  const server = createTestServer(engine);
  const reply = await server.post(RESPONSES, body);
  expect(reply.status).toBe(200);
  const [request] = engine.requests;
  const lines = { model: server.context.models.models[0]?.id, ignored: '' };
  lines.ignored = reply.headers.get('x-coppice-ignored-fields') ?? '';
  return { request, ...lines };
}

describe('refused by name', () => {
  const message = (content: unknown) => ({ input: [{ role: 'user', content }] });
  test.each<[object, string, string | null]>([
    [{}, 'input', null],
    [{ input: [] }, 'input', null],
    [{ input: 5 }, 'input', null],
    [{ input: [{ role: 'wizard', content: 'a' }] }, 'input[0].role', null],
    [{ input: [{ type: 'message', role: 'user' }] }, 'input[0].content', null],
    [{ input: [{ type: 'web_search_call', id: 'ws_1' }] }, 'input[0].type', null],
    [{ input: [{ type: 'item_reference', id: 'msg_1' }] }, 'input[0].id', null],
    [{ input: [{ type: 'function_call_output', call_id: 'call_1', output: 'x' }] }, 'input[0].call_id', null],
    [message([]), 'input[0].content', null],
    [message([{ type: 'text', text: 'a' }]), 'input[0].content[0].type', null],
    [
      message([
        { type: 'input_text', text: 'a' },
        { type: 'input_image', image_url: 'data:,' },
      ]),
      'input[0].content[1].image_url',
      'unsupported_value',
    ],
    [message([{ type: 'input_file', file_id: 'f' }]), 'input[0].content[0].type', 'unsupported_value'],
    [{ input: 'a', background: true }, 'background', 'unsupported_parameter'],
    [{ input: 'a', conversation: 'conv_1' }, 'conversation', 'unsupported_parameter'],
    [{ input: 'a', prompt: { id: 'pmpt_1' } }, 'prompt', 'unsupported_parameter'],
    [{ input: 'a', context_management: [] }, 'context_management', 'unsupported_parameter'],
    [{ input: 'a', truncation: 'auto' }, 'truncation', 'unsupported_value'],
    [{ input: 'a', truncation: 'middle' }, 'truncation', null],
    [{ input: 'a', top_logprobs: 2 }, 'top_logprobs', null],
    [{ input: 'a', include: ['everything'] }, 'include[0]', null],
    [{ input: 'a', metadata: { a: 1 } }, 'metadata.a', null],
    [{ input: 'a', metadata: { a: 'x'.repeat(513) } }, 'metadata.a', null],
    [
      { input: 'a', metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, ''])) },
      'metadata',
      null,
    ],
    [{ input: 'a', max_output_tokens: 0 }, 'max_output_tokens', null],
    [{ input: 'a', max_output_tokens: 9000 }, 'max_output_tokens', 'context_length_exceeded'],
    [{ input: 'a', max_output_tokens: 2, min_tokens: 3 }, 'min_tokens', null],
    [{ input: 'red '.repeat(9000) }, 'input', 'context_length_exceeded'],
    [{ input: 'a', pruning: { kv: 'nothing' } }, 'pruning.kv.policy', null],
    [{ input: 'a', speculative: 'magic' }, 'speculative', null],
  ])('%j', async (body, param, code) => {
    expect(await refused(body)).toMatchObject({ status: 400, type: 'invalid_request_error', param, code });
    expect(await refused({ ...body, stream: true })).toMatchObject({ status: 400, param, code });
  });
});

test('values that mean "off" pass', async () => {
  const { ignored } = await submitted({
    input: 'a',
    background: false,
    conversation: null,
    truncation: 'disabled',
    tools: [],
    tool_choice: 'none',
    text: { format: { type: 'text' }, verbosity: 'low' },
    include: ['reasoning.encrypted_content'],
    top_logprobs: 0,
    stream_options: { include_obfuscation: false },
  });
  expect(ignored).toBe('');
});

test('fields that nothing reads are named', async () => {
  const { ignored } = await submitted({
    input: 'a',
    prunning: 'x',
    user: 'u',
    service_tier: 'auto',
    n: 2,
    return_progress: true,
  });
  expect(ignored.split(', ')).toEqual(['prunning', 'user', 'service_tier', 'n', 'return_progress']);
});

test('every field reaches the engine', async () => {
  const { request } = await submitted({
    input: 'a',
    max_output_tokens: 50,
    min_tokens: 4,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    repetition_penalty: 1.1,
    seed: -5,
    stop_token_ids: [9],
    priority: -2,
    cache_prompt: false,
    include: ['message.output_text.logprobs'],
    top_logprobs: 4,
  });
  expect(request).toMatchObject({
    numChoices: 1,
    maxTokens: 50,
    minTokens: 4,
    stopTokenIds: [2, 0, 9],
    priority: -2,
    cachePrompt: false,
    sampling: {
      temperature: 0.5,
      topP: 0.9,
      topK: 40,
      minP: 0.05,
      repetitionPenalty: 1.1,
      seed: -5,
      logprobs: 4,
    },
  });
});

test('items are the messages of a chat', async () => {
  const part = (text: string) => ({ type: 'input_text', text });
  const { request } = await submitted({
    instructions: 'Be brief.',
    input: [
      { role: 'developer', content: 'Be kind.' },
      { type: 'message', role: 'user', content: [part('a'), part('b')] },
      { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'x' },
      { type: 'message', id: 'msg_1', role: 'assistant', content: [{ type: 'output_text', text: 'c' }] },
      { role: 'user', content: 'd' },
    ],
  });
  const engine = new ScriptedEngine(saying([300]));
  await createTestServer(engine).post('/v1/chat/completions', {
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'developer', content: 'Be kind.' },
      { role: 'user', content: [part('a'), part('b')].map(({ text }) => ({ type: 'text', text })) },
      { role: 'assistant', content: 'c' },
      { role: 'user', content: 'd' },
    ],
  });
  expect(request?.promptIds).toEqual(engine.requests[0]?.promptIds);
});

test('an error after the first event is the last one, and the response cannot be continued', async () => {
  const engine = new ScriptedEngine(function* (request) {
    yield token(300);
    if (engine.requests.length === 1)
      yield { type: 'error', code: 'kv_memory_exceeded', message: `no room: ${request.id}`, param: null };
  });
  const server = createTestServer(engine);
  const reply = await server.post(RESPONSES, { input: 'a', stream: true });
  const events = (await reply.text())
    .split('\n\n')
    .slice(0, -1)
    .map((frame) => JSON.parse(frame.slice(frame.indexOf('{'))) as AnyEvent);
  expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, i) => i));
  const message = expect.stringContaining('no room') as string;
  expect(events.at(-1)).toMatchObject({
    type: 'error',
    code: 'kv_memory_exceeded',
    message,
    param: null,
    error: { message, type: 'server_error', param: null, code: 'kv_memory_exceeded' },
  });
  const { id } = events[0]?.response as { id: string };
  const next = await server.post(RESPONSES, { input: 'a', previous_response_id: id });
  expect(next.status).toBe(400);
});

test('what is refused after it was queued has sent nothing', async () => {
  const engine = new ScriptedEngine(function* () {
    yield { type: 'error', code: 'queue_full', message: 'full', param: null };
  });
  const reply = await createTestServer(engine).post(RESPONSES, { input: 'a', stream: true });
  expect(reply.status).toBe(429);
});

test('it is created when its prefill begins', async () => {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const engine = new ScriptedEngine(async function* (request) {
    yield { type: 'started', cachedTokens: 0 };
    await held;
    yield finished();
    yield done(request, 0);
  });
  const reply = await createTestServer(engine).post(RESPONSES, { input: 'a', stream: true });
  const reader = reply.body?.getReader();
  const first = new TextDecoder().decode((await reader?.read())?.value as Uint8Array);
  expect(first).toMatch(/^event: response\.created\n/);
  release();
  await reader?.cancel();
});

test('a model that says nothing answers with an empty message', async () => {
  const reply = await createTestServer(new ScriptedEngine(saying([]))).post(RESPONSES, { input: 'a' });
  expect(await reply.json()).toMatchObject({
    status: 'completed',
    output: [{ type: 'message', content: [{ type: 'output_text', text: '' }] }],
  });
});
