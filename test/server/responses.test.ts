/** Responses with the real engine, through the official client. */
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkEventOrder } from './responses/event-order.ts';
import type { AnyEvent } from './responses/event-order.ts';
import { startLiveServer } from './support/live.ts';
import type { LiveServer } from './support/live.ts';

let server: LiveServer;
beforeAll(async () => {
  server = await startLiveServer();
});
afterAll(async () => {
  await server.close();
});

type Params = OpenAI.Responses.ResponseCreateParamsNonStreaming;
/** Our fields and vLLM's, which the client's types do not know. */
type Extra = Record<string, unknown>;

const model = 'coppice-recall';
const input = 'What is the code of red?';

function ask(params: Params & Extra = {}) {
  return server.client.responses.create({ model, input, ...params });
}

async function stream(params: Params & Extra = {}) {
  const events: AnyEvent[] = [];
  const body = { model, input, ...params, stream: true } as OpenAI.Responses.ResponseCreateParamsStreaming;
  for await (const event of await server.client.responses.create(body))
    events.push(event as unknown as AnyEvent);
  const response = checkEventOrder(events) as unknown as OpenAI.Responses.Response & Extra;
  const text = events.map((event) => (event.type.endsWith('text.delta') ? String(event.delta) : '')).join('');
  return { events, response, text };
}

/** But for what differs from one request to the next. */
function stable(response: object): unknown {
  const varying = new Set(['id', 'created_at', 'completed_at', 'timings', 'cached_tokens', 'output_text']);
  const text = JSON.stringify(response, (key, value: unknown) => (varying.has(key) ? undefined : value));
  return JSON.parse(text);
}

test('whole, streamed and as the chat route says it', async () => {
  const whole = await ask({ max_output_tokens: 30, ignore_eos: true });
  const { text, response } = await stream({ max_output_tokens: 30, ignore_eos: true });
  const chat = await server.client.chat.completions.create({
    model,
    messages: [{ role: 'user', content: input }],
    max_completion_tokens: 30,
    ignore_eos: true,
  } as OpenAI.ChatCompletionCreateParamsNonStreaming);
  expect(whole.output_text.length).toBeGreaterThan(10);
  expect(text).toBe(whole.output_text);
  expect(chat.choices[0]?.message.content).toBe(whole.output_text);
  expect(stable(response)).toEqual(stable(whole));
  expect(whole.usage).toMatchObject({
    input_tokens: chat.usage?.prompt_tokens,
    output_tokens: 30,
    total_tokens: (chat.usage?.prompt_tokens ?? 0) + 30,
  });
});

test('the object says what is in force', async () => {
  const response = await ask({
    instructions: 'Be brief.',
    metadata: { trace: 'a1' },
    temperature: 0,
    top_p: 0.5,
    store: false,
  });
  expect(response).toMatchObject({
    object: 'response',
    status: 'completed',
    error: null,
    incomplete_details: null,
    instructions: 'Be brief.',
    max_output_tokens: null,
    metadata: { trace: 'a1' },
    model,
    previous_response_id: null,
    store: false,
    temperature: 0,
    top_p: 0.5,
    truncation: 'disabled',
    text: { format: { type: 'text' } },
    tools: [],
    output: [{ type: 'message', role: 'assistant', status: 'completed', content: [{ type: 'output_text' }] }],
  });
  expect(response.id).toMatch(/^resp_/);
  expect(response.output[0]?.id).toMatch(/^msg_/);
  expect(response.completed_at).toBeGreaterThanOrEqual(response.created_at);
});

test('cut off by max_output_tokens it is incomplete, and says so in its events', async () => {
  const { events, response } = await stream({ max_output_tokens: 3, ignore_eos: true });
  expect(events.at(-1)?.type).toBe('response.incomplete');
  expect(response).toMatchObject({
    status: 'incomplete',
    completed_at: null,
    incomplete_details: { reason: 'max_output_tokens' },
    output: [{ status: 'incomplete' }],
    usage: { output_tokens: 3 },
  });
});

test("the client's stream helper follows it", async () => {
  let snapshot = '';
  const runner = server.client.responses
    .stream({ model, input, max_output_tokens: 20 })
    .on('response.output_text.delta', (event) => (snapshot = event.snapshot));
  const final = await runner.finalResponse();
  expect(final.output_text).toBe((await ask({ max_output_tokens: 20 })).output_text);
  expect(snapshot).toBe(final.output_text);
  expect(final.output_text.length).toBeGreaterThan(0);
});

test('frames name their event, and none says [DONE]', async () => {
  const reply = await server.post('/v1/responses', { input, stream: true, max_output_tokens: 4 });
  expect(reply.headers.get('content-type')).toMatch(/^text\/event-stream/);
  const frames = (await reply.text()).split('\n\n').slice(0, -1);
  for (const frame of frames) {
    const [, type, data] = /^event: (\S+)\ndata: (.*)$/.exec(frame) ?? [];
    expect((JSON.parse(data ?? '') as AnyEvent).type).toBe(type);
  }
  expect(frames.at(-1)).toMatch(/^event: response\.completed\n/);
});

describe('log-probabilities', () => {
  const params: Params & Extra = {
    max_output_tokens: 8,
    include: ['message.output_text.logprobs'],
    top_logprobs: 3,
    ignore_eos: true,
  };

  test('stand on deltas and on the part, with alternatives', async () => {
    const whole = await ask(params);
    const [item] = whole.output as OpenAI.Responses.ResponseOutputMessage[];
    const { logprobs = [] } = item?.content[0] as OpenAI.Responses.ResponseOutputText;
    expect(logprobs).toHaveLength(8);
    for (const { token, logprob, bytes, top_logprobs: top } of logprobs) {
      expect(top).toHaveLength(3);
      expect(top[0]).toEqual({ token, logprob, bytes });
    }
    const { events } = await stream(params);
    const deltas = events.filter(({ type }) => type === 'response.output_text.delta');
    expect(deltas.flatMap((event) => event.logprobs)).toEqual(logprobs);
  });

  test('are absent unless asked for', async () => {
    const [item] = (await ask({ max_output_tokens: 2 })).output as OpenAI.Responses.ResponseOutputMessage[];
    expect(item?.content[0]).toMatchObject({ logprobs: [] });
  });
});

describe('continued', () => {
  const long = (tag: string) => `${tag} ${'The code of red is nine. '.repeat(20)}What is the code of red?`;

  test('three times over: the same as the whole conversation, most of it from the prefix cache', async () => {
    const asked = [long('delta'), 'And of blue?', 'And of both?'];
    const items: OpenAI.Responses.ResponseInputItem[] = [];
    let previous: OpenAI.Responses.Response | null = null;
    for (const text of asked) {
      const next: OpenAI.Responses.Response = await ask({
        input: text,
        previous_response_id: previous?.id ?? null,
        max_output_tokens: 12,
      });
      items.push({ role: 'user', content: text });
      const whole = await ask({ input: items, max_output_tokens: 12, cache_prompt: false });
      expect(next.output_text).toBe(whole.output_text);
      expect(next.usage?.input_tokens).toBe(whole.usage?.input_tokens);
      expect(next.previous_response_id).toBe(previous?.id ?? null);
      if (previous !== null) {
        const cached = next.usage?.input_tokens_details.cached_tokens ?? 0;
        expect(cached).toBeGreaterThanOrEqual((previous.usage?.input_tokens ?? 0) - 64);
      }
      items.push({ role: 'assistant', content: next.output_text });
      previous = next;
    }
  });

  test('instructions are those of the request, never of an earlier one', async () => {
    const first = await ask({ instructions: 'Answer as a pirate would.', max_output_tokens: 5 });
    const next = async (params: Params & Extra) => {
      const { usage } = await ask({ input: 'Why?', max_output_tokens: 1, ...params });
      return usage?.input_tokens;
    };
    const items: OpenAI.Responses.ResponseInput = [
      { role: 'user', content: input },
      { role: 'assistant', content: first.output_text },
      { role: 'user', content: 'Why?' },
    ];
    const id = first.id;
    expect(await next({ previous_response_id: id })).toBe(await next({ input: items }));
    const instructions = 'Be brief.';
    expect(await next({ previous_response_id: id, instructions })).toBe(
      await next({ input: items, instructions }),
    );
  });

  test('also when it was cut off, and from one response in two ways', async () => {
    const first = await ask({ max_output_tokens: 2, ignore_eos: true });
    const [one, two] = await Promise.all(
      ['Go on', 'Stop it'].map((text) => ask({ input: text, previous_response_id: first.id })),
    );
    expect([one?.status, two?.status]).toEqual(['completed', 'completed']);
  });

  test('by a reference to its item', async () => {
    const first = await ask({ max_output_tokens: 6 });
    const itemId = first.output[0]?.id ?? '';
    const asked = { role: 'user' as const, content: input };
    const referring = await ask({
      input: [asked, { type: 'item_reference', id: itemId }, asked],
      max_output_tokens: 6,
    });
    const answered = first.output as OpenAI.Responses.ResponseOutputMessage[];
    const repeating = await ask({ input: [asked, ...answered, asked], max_output_tokens: 6 });
    expect(referring.usage?.input_tokens).toBe(repeating.usage?.input_tokens);
    expect(referring.output_text).toBe(repeating.output_text);
  });

  test.each([false, true])(
    'not when store was false or the id is unknown, stream: %s',
    async (isStreamed) => {
      const { id } = await ask({ store: false, max_output_tokens: 1 });
      for (const previous of [id, 'resp_unknown', '']) {
        const params = { previous_response_id: previous };
        const call = isStreamed ? stream(params) : ask(params);
        const error: unknown = await call.catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(OpenAI.BadRequestError);
        expect(error).toMatchObject({ code: 'previous_response_not_found', param: 'previous_response_id' });
      }
    },
  );
});

test('pruning is asked for and reported as on the other routes', async () => {
  const pruning = { kv: { policy: 'snapkv', keep: 0.5 } };
  const asked = { input: 'The code of red is nine. '.repeat(30), max_output_tokens: 4, pruning };
  const whole = (await ask(asked)) as OpenAI.Responses.Response & Extra;
  expect(whole.pruning).toMatchObject({ preset: null, kv: { policy: 'snapkv' } });
  expect(whole.timings).toHaveProperty('ttft_ms');
  const { events, response } = await stream(asked);
  expect(response.pruning).toEqual(whole.pruning);
  expect(events[0]?.response).not.toHaveProperty('pruning');
});

test('a client that leaves frees its sequence, and what it heard is not kept', async () => {
  const call = await server.client.responses.create({
    model,
    input,
    stream: true,
    max_output_tokens: 6000,
    ignore_eos: true,
  } as OpenAI.Responses.ResponseCreateParamsStreaming);
  let id = '';
  for await (const event of call) {
    if (event.type === 'response.created') id = event.response.id;
    if (event.type === 'response.output_text.delta') break;
  }
  await server.until((stats) => stats.running === 0 && stats.waiting === 0 && stats.kvBytes === 0);
  const error: unknown = await ask({ previous_response_id: id }).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'previous_response_not_found' });
});
