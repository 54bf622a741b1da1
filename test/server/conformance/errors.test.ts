/** The table of errors, as far as a server in its usual state can be made to show it. */
import { beforeAll, describe, expect, test } from 'vitest';
import { CHAT, COMPLETIONS, RESPONSES, expectError, target } from './support/target.ts';

const messages = [{ role: 'user', content: 'hello' }];
const chat = { messages, max_tokens: 2 };
const completion = { prompt: 'hello', max_tokens: 2 };
const response = { input: 'hello', max_output_tokens: 2 };
let contextLength: number;
beforeAll(async () => {
  contextLength = (await target.model()).context_length;
});

describe('wrong values: 400 and the path of the field', () => {
  test.each<[string, object, string]>([
    [CHAT, {}, 'messages'],
    [CHAT, { messages: [{ role: 'robot', content: 'x' }] }, 'messages[0].role'],
    [CHAT, { ...chat, temperature: 'hot' }, 'temperature'],
    [CHAT, { ...chat, temperature: 2.5 }, 'temperature'],
    [CHAT, { ...chat, max_tokens: 4, min_tokens: 5 }, 'min_tokens'],
    [CHAT, { ...chat, n: 0 }, 'n'],
    [CHAT, { ...chat, logit_bias: { x: 1 } }, 'logit_bias.x'],
    [CHAT, { ...chat, max_time_ms: 0 }, 'max_time_ms'],
    [CHAT, { ...chat, speculative: { drafter: 'no-such' } }, 'speculative'],
    [CHAT, { ...chat, pruning: 'no-such' }, 'pruning'],
    [COMPLETIONS, {}, 'prompt'],
    [COMPLETIONS, { ...completion, max_tokens: 0 }, 'max_tokens'],
    [COMPLETIONS, { ...completion, logprobs: 6 }, 'logprobs'],
    [COMPLETIONS, { prompt: ['a', 5] }, 'prompt[1]'],
    [COMPLETIONS, { ...completion, stop_token_ids: [99_999_999] }, 'stop_token_ids[0]'],
    [RESPONSES, { ...response, input: 5 }, 'input'],
    [RESPONSES, { ...response, max_output_tokens: 0 }, 'max_output_tokens'],
    ['/tokenize', {}, 'prompt'],
    ['/detokenize', { tokens: [1, 'a'] }, 'tokens[1]'],
  ])('%s %j', async (path, body, param) => {
    expectError(await target.post(path, body), { status: 400, param });
    expectError(await target.post(path, { ...body, stream: true }), { status: 400, param });
  });

  test.each(['', '{', 'null', '[]', '"x"', '1'])('body %j', async (text) => {
    for (const path of [CHAT, COMPLETIONS, RESPONSES, '/tokenize', '/detokenize'])
      expectError(await target.post(path, text), { status: 400 });
  });
});

describe('unsupported: 400 and the name of the field', () => {
  test.each<[string, object, string]>([
    [COMPLETIONS, { ...completion, suffix: 'x' }, 'suffix'],
    [COMPLETIONS, { ...completion, best_of: 2 }, 'best_of'],
    [CHAT, { ...chat, audio: { voice: 'alloy', format: 'wav' } }, 'audio'],
    [CHAT, { ...chat, modalities: ['text', 'audio'] }, 'modalities'],
    [CHAT, { ...chat, functions: [{ name: 'f' }] }, 'functions'],
    [CHAT, { ...chat, function_call: 'auto' }, 'function_call'],
    [CHAT, { ...chat, background: true }, 'background'],
    [RESPONSES, { ...response, background: true }, 'background'],
  ])('%s %j', async (path, body, param) => {
    expectError(await target.post(path, body), { status: 400, code: 'unsupported_parameter', param });
  });

  test('what is off passes', async () => {
    expect((await target.post(COMPLETIONS, { ...completion, suffix: '', best_of: 1 })).status).toBe(200);
    expect((await target.post(CHAT, { ...chat, modalities: ['text'], speculative: false })).status).toBe(200);
  });
});

describe('more than the context holds', () => {
  test.each([true, false])('stream: %s', async (stream) => {
    for (const [path, field, body] of [
      [CHAT, 'max_tokens', chat],
      [COMPLETIONS, 'max_tokens', completion],
      [RESPONSES, 'max_output_tokens', response],
    ] as const) {
      const reply = await target.post(path, { ...body, [field]: contextLength, stream });
      const message = expectError(reply, { status: 400, code: 'context_length_exceeded', param: field });
      expect(message).toContain(String(contextLength));
    }
    const prompt = Array<number>(contextLength + 1).fill(1);
    const reply = await target.post(COMPLETIONS, { prompt, stream });
    expectError(reply, { status: 400, code: 'context_length_exceeded', param: 'prompt' });
  });
});

test('unknown models and responses', async () => {
  for (const [path, body] of [
    [CHAT, chat],
    [COMPLETIONS, completion],
    [RESPONSES, response],
    ['/tokenize', { prompt: 'a' }],
  ] as const)
    expectError(await target.post(path, { ...body, model: 'no-such' }), {
      status: 404,
      code: 'model_not_found',
      param: 'model',
    });
  expectError(await target.post(RESPONSES, { ...response, previous_response_id: 'resp_no_such' }), {
    status: 400,
    code: 'previous_response_not_found',
    param: 'previous_response_id',
  });
});

test('other content types, and JSON by its other names', async () => {
  const body = JSON.stringify(completion);
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', 'json'])
    expectError(await target.post(COMPLETIONS, body, { 'content-type': type }), {
      status: 415,
      code: 'unsupported_media_type',
    });
  for (const type of ['application/json; charset=utf-8', 'Application/JSON'])
    expect((await target.post(COMPLETIONS, body, { 'content-type': type })).status).toBe(200);
});

test('media that nobody may name, or that no model reads', async () => {
  const ask = (url: string) =>
    target.post(CHAT, { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }] });
  for (const url of ['file:///etc/passwd', 'https://not-listed.example/x.png', 'http://127.0.0.1/x.png'])
    expectError(await ask(url), {
      status: 400,
      code: 'unsupported_value',
      param: 'messages[0].content[0].image_url.url',
    });
});

describe('a deadline', () => {
  const endless = { max_tokens: 6000, ignore_eos: true };

  test('before anything is sent: 504', async () => {
    const prompt = Array<number>(2000).fill(5);
    const reply = await target.post(COMPLETIONS, { ...endless, prompt, max_time_ms: 1 });
    expectError(reply, { status: 504, type: 'server_error', code: 'timeout' });
  });

  test('in the middle of a stream: an event, and neither a reason nor [DONE]', async () => {
    const { objects, hasDone } = await target.stream(CHAT, { messages, ...endless, max_time_ms: 1500 });
    expect(hasDone).toBe(false);
    expect(objects.at(-1)).toMatchObject({ error: { type: 'server_error', code: 'timeout' } });
    expect(objects.length).toBeGreaterThan(1);
    expect(JSON.stringify(objects)).not.toMatch(/"finish_reason":"/);
  });
});
