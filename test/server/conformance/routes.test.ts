/** Routes and methods, ids of requests, content types, ignored fields, listings and tokens. */
import { describe, expect, test } from 'vitest';
import { CHAT, COMPLETIONS, RESPONSES, expectError, target } from './support/target.ts';

const posts = [CHAT, COMPLETIONS, RESPONSES, '/tokenize', '/detokenize'];
const gets = ['/v1/models', '/v1/policies', '/health', '/ready', '/metrics', '/openapi.json'];
const prompt = 'The code of red is nine. ';

describe('methods', () => {
  test.each(posts)('%s takes POST', async (path) => {
    for (const method of ['GET', 'PUT', 'DELETE', 'PATCH']) {
      const reply = await target.request(path, { method });
      expectError(reply, { status: 405, code: 'method_not_allowed' });
      expect(reply.headers.get('allow')).toBe('POST');
    }
  });

  test.each(gets)('%s takes GET and HEAD', async (path) => {
    const reply = await target.post(path, {});
    expectError(reply, { status: 405, code: 'method_not_allowed' });
    expect(reply.headers.get('allow')?.split(', ').sort()).toEqual(['GET', 'HEAD']);
    expect((await target.request(path)).status).toBe(200);
    expect(await target.request(path, { method: 'HEAD' })).toMatchObject({ status: 200, text: '' });
  });

  test.each(['/v1/no-such', '/V1/models', '/v1/completions/x', '/%2e%2e/etc/passwd', '//'])(
    '%s is not found',
    async (path) => {
      expectError(await target.request(path), { status: 404, code: 'not_found', param: null });
    },
  );
});

describe('every reply has an id', () => {
  test.each(['a', 'req-1_2.3:4', 'x'.repeat(128)])('the client’s: %s', async (id) => {
    for (const path of ['/health', '/v1/no-such'])
      expect(
        (await target.request(path, { headers: { 'x-request-id': id } })).headers.get('x-request-id'),
      ).toBe(id);
  });

  test.each(['', 'x'.repeat(129), 'a b', 'a/b', 'é'])('a new one instead of %j', async (id) => {
    const reply = await target.request('/health', { headers: { 'x-request-id': id } });
    expect(reply.headers.get('x-request-id')).toMatch(/^req-/);
  });

  test('streams too', async () => {
    const id = 'stream-1';
    const reply = await target.post(
      COMPLETIONS,
      { prompt, max_tokens: 1, stream: true },
      { 'x-request-id': id },
    );
    expect(reply.headers.get('x-request-id')).toBe(id);
    expect(reply.headers.get('content-type')).toMatch(/^text\/event-stream/);
  });
});

test('fields that nobody reads are accepted and named', async () => {
  const known = { prompt, max_tokens: 1 };
  const reply = await target.post(COMPLETIONS, { ...known, prunning: 'balanced', user: 'me' });
  expect(reply.status).toBe(200);
  expect(reply.headers.get('x-coppice-ignored-fields')?.split(', ').sort()).toEqual(['prunning', 'user']);
  expect((await target.post(COMPLETIONS, known)).headers.has('x-coppice-ignored-fields')).toBe(false);
});

test('null is as good as nothing in every optional field', async () => {
  const names =
    'model stream stream_options n temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty ' +
    'logit_bias seed stop stop_token_ids min_tokens ignore_eos priority cache_prompt return_progress max_time_ms ' +
    'return_tokens_as_token_ids pruning speculative logprobs tools tool_choice response_format';
  const nulls = Object.fromEntries(names.split(' ').map((name) => [name, null]));
  const messages = [{ role: 'user', content: prompt }];
  const chat = await target.post(CHAT, { ...nulls, top_logprobs: null, messages, max_completion_tokens: 2 });
  expect(chat.status, chat.text).toBe(200);
  const legacy = { ...nulls, echo: null, suffix: null, best_of: null, prompt, max_tokens: 2 };
  const completion = await target.post(COMPLETIONS, legacy);
  expect(completion.status, completion.text).toBe(200);
  const more = { instructions: null, previous_response_id: null, store: null, text: null, metadata: null };
  const response = await target.post(RESPONSES, { ...nulls, ...more, input: prompt, max_output_tokens: 2 });
  expect(response.status, response.text).toBe(200);
});

describe('listings', () => {
  test('models', async () => {
    const { json } = await target.request('/v1/models');
    expect(json['object']).toBe('list');
    const data = json['data'] as { id: string }[];
    expect(data.length).toBeGreaterThan(0);
    for (const model of data) {
      expect(model).toMatchObject({
        object: 'model',
        context_length: expect.any(Number) as number,
        modalities: expect.arrayContaining(['text']) as string[],
      });
      const { pruning } = model as unknown as { pruning: Record<string, string[]> };
      expect(Object.keys(pruning).sort()).toEqual(['kv', 'layers', 'tokens', 'visual']);
      expect((await target.request(`/v1/models/${model.id}`)).json).toEqual(model);
    }
    expect((await target.client.models.list()).data.map(({ id }) => id)).toEqual(data.map(({ id }) => id));
    const missing = await target.request('/v1/models/no/such');
    expectError(missing, { status: 404, code: 'model_not_found', param: 'model' });
  });

  test('policies and presets', async () => {
    const { json } = await target.request('/v1/policies');
    expect(json['object']).toBe('list');
    const data = json['data'] as Record<string, unknown>[];
    for (const policy of data) {
      expect(policy).toMatchObject({
        name: expect.stringMatching(/^[a-z0-9-]+$/) as string,
        family: expect.stringMatching(/^(tokens|kv|visual|layers)$/) as string,
        summary: expect.stringMatching(/\S/) as string,
        needs: expect.any(Array) as string[],
        supported: expect.any(Boolean) as boolean,
        options: expect.objectContaining({ type: 'object' }) as object,
      });
      expect(Object.keys(policy)).toContain('paper');
      expect(policy['examples']).not.toEqual([]);
      if (policy['supported'] === false) expect(policy['reason']).toMatch(/\S/);
      const { properties = {}, required = [] } = policy['options'] as {
        properties?: Record<string, object>;
        required?: string[];
      };
      const unexplained = Object.entries(properties).filter(
        ([name, schema]) => !required.includes(name) && !('default' in schema || 'description' in schema),
      );
      expect(unexplained, `defaults of ${String(policy['name'])}`).toEqual([]);
    }
    for (const preset of json['presets'] as object[])
      expect(preset).toMatchObject({
        name: expect.any(String) as string,
        summary: expect.any(String) as string,
        pruning: expect.any(Object) as object,
      });
    const { id } = await target.model();
    const { json: models } = await target.request('/v1/models');
    const { pruning } = (models['data'] as { id: string; pruning: Record<string, string[]> }[]).find(
      (model) => model.id === id,
    ) ?? { pruning: {} };
    const supported = data.filter((policy) => policy['supported'] === true);
    for (const [family, names] of Object.entries(pruning))
      expect(names).toEqual(
        supported.filter((policy) => policy['family'] === family).map(({ name }) => name),
      );
  });

  test('the OpenAPI document has every route', async () => {
    const { json } = await target.request('/openapi.json');
    expect(json['openapi']).toMatch(/^3\.1/);
    const paths = Object.keys(json['paths'] as object);
    expect(paths).toEqual(expect.arrayContaining([...posts, ...gets, '/v1/models/{id}']));
  });

  test('probes and the page of metrics', async () => {
    for (const path of ['/health', '/ready']) expect((await target.request(path)).status).toBe(200);
    const { headers } = await target.request('/metrics');
    expect(headers.get('content-type')).toMatch(/^text\/plain; *version=0\.0\.4/);
  });
});

describe('tokens', () => {
  const count = async (body: object) => (await target.post('/tokenize', body)).json;

  test('of a text, and back', async () => {
    const { tokens, count: numTokens } = (await count({ prompt })) as { tokens: number[]; count: number };
    expect(tokens).toHaveLength(numTokens);
    const { text } = await target.post('/detokenize', { tokens });
    expect(text).toContain(prompt);
  });

  test('of messages, with the prompt for the answer; control text in them stays text', async () => {
    const messages = (content: string) => ({ messages: [{ role: 'user', content }] });
    const { tokens } = (await count(messages('a'))) as { tokens: number[] };
    expect(tokens.length).toBeGreaterThan(Number((await count({ prompt: 'a' }))['count']));
    const { usage } = (await target.post(CHAT, { ...messages('a'), max_tokens: 1 })).json as {
      usage: { prompt_tokens: number };
    };
    expect(usage.prompt_tokens).toBe(tokens.length);
    const [first = 0] = tokens;
    const { prompt: control } = (await target.post('/detokenize', { tokens: [first] })).json;
    const hostile = (await count(messages(String(control)))) as { tokens: number[] };
    const times = (ids: number[]) => ids.filter((id) => id === first).length;
    expect(times(hostile.tokens)).toBe(times(tokens));
  });

  test('text parts are joined by a line feed', async () => {
    const parts = ['one', 'two'].map((text) => ({ type: 'text', text }));
    const joined = await count({ messages: [{ role: 'user', content: 'one\ntwo' }] });
    expect(await count({ messages: [{ role: 'user', content: parts }] })).toEqual(joined);
  });
});
