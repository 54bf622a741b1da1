/** Responses through the official client: whole, streamed, continued. */
import type OpenAI from 'openai';
import { beforeAll, describe, expect, test } from 'vitest';
import { RESPONSES, target } from './support/target.ts';

type Extra = Record<string, unknown>;
type Whole = OpenAI.Responses.Response & Extra;
interface Event {
  readonly type: string;
  readonly sequence_number: number;
  readonly response?: Whole;
  readonly delta?: string;
}

const plain = { input: 'What is the code of red?', temperature: 0, max_output_tokens: 6, ignore_eos: true };
let model: string;
beforeAll(async () => {
  model = (await target.model()).id;
});

const ask = (fields: Extra = {}) =>
  target.client.responses.create({
    model,
    ...plain,
    ...fields,
  } as OpenAI.Responses.ResponseCreateParamsNonStreaming) as unknown as Promise<Whole>;

test('whole', async () => {
  const response = await ask({ instructions: 'Be brief.', metadata: { a: 'b' } });
  expect(response).toMatchObject({
    id: expect.stringMatching(/^resp_/) as string,
    object: 'response',
    model,
    status: 'incomplete',
    incomplete_details: { reason: 'max_output_tokens' },
    error: null,
    instructions: 'Be brief.',
    metadata: { a: 'b' },
    output: [{ type: 'message', role: 'assistant', content: [{ type: 'output_text', annotations: [] }] }],
    usage: { output_tokens: 6, input_tokens_details: { cached_tokens: expect.any(Number) as number } },
  });
  expect(response.usage?.total_tokens).toBe((response.usage?.input_tokens ?? 0) + 6);
  expect(response['timings']).toHaveProperty('ttft_ms');
  expect(response.output_text).not.toBe('');
});

test('streamed: events in order, the same text, totals on the last', async () => {
  const { objects, hasDone } = await target.stream(RESPONSES, { ...plain, pruning: 'none' });
  const events = objects as unknown as Event[];
  expect(hasDone).toBe(false);
  expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, i) => i));
  const types = events.map(({ type }) => type).filter((type, i, all) => type !== all[i - 1]);
  expect(types).toEqual([
    'response.created',
    'response.in_progress',
    'response.output_item.added',
    'response.content_part.added',
    'response.output_text.delta',
    'response.output_text.done',
    'response.content_part.done',
    'response.output_item.done',
    'response.incomplete',
  ]);
  const text = events.map(({ type, delta }) => (type.endsWith('_text.delta') ? delta : '')).join('');
  expect(text).toBe((await ask()).output_text);
  expect(events.at(-1)?.response).toMatchObject({ usage: { output_tokens: 6 }, pruning: { preset: 'none' } });
  expect(events.at(-1)?.response).toHaveProperty('timings');
});

test('the client’s own stream helper', async () => {
  const types: string[] = [];
  const params = { model, ...plain } as unknown as Parameters<typeof target.client.responses.stream>[0];
  const stream = target.client.responses.stream(params);
  stream.on('event', ({ type }) => types.push(type));
  expect((await stream.finalResponse()).output_text).toBe((await ask()).output_text);
  expect(types[0]).toBe('response.created');
});

describe('earlier responses', () => {
  test('are continued with all that was said', async () => {
    const first = await ask();
    const second = await ask({ input: 'And now?', previous_response_id: first.id, store: true });
    expect(second.previous_response_id).toBe(first.id);
    expect(second.usage?.input_tokens).toBeGreaterThan((first.usage?.input_tokens ?? 0) + 6);
    const same = await ask({
      input: [
        { role: 'user', content: plain.input },
        { role: 'assistant', content: first.output_text },
        { role: 'user', content: 'And now?' },
      ],
    });
    expect(same.usage?.input_tokens).toBe(second.usage?.input_tokens);
  });

  test('that were not to be stored are not found', async () => {
    const { id } = await ask({ store: false });
    await expect(ask({ previous_response_id: id })).rejects.toMatchObject({
      status: 400,
      code: 'previous_response_not_found',
      param: 'previous_response_id',
    });
  });
});

test('log-probabilities when asked for', async () => {
  const { output } = await ask({ include: ['message.output_text.logprobs'], top_logprobs: 1 });
  expect(output[0]).toMatchObject({ content: [{ logprobs: expect.any(Array) as object[] }] });
  expect(JSON.stringify(output).match(/"top_logprobs"/g)).toHaveLength(6);
});
