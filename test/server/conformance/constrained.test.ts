/** Tools and structured output: even a tiny model answers with a valid call or document, on every route and carrier. */
import { ChatOpenAI } from '@langchain/openai';
import type OpenAI from 'openai';
import { beforeAll, describe, expect, test } from 'vitest';
import { CHAT, RESPONSES, expectError, target } from './support/target.ts';

const SCHEMA = {
  type: 'object',
  properties: { colour: { enum: ['red', 'green'] }, isOpen: { type: 'boolean' } },
  required: ['colour', 'isOpen'],
  additionalProperties: false,
} as const;
const look = { name: 'look_up', description: 'Looks up a code', parameters: SCHEMA };
const tools = [
  { type: 'function', function: look },
  { type: 'function', function: { ...look, name: 'open_door' } },
] as const satisfies OpenAI.ChatCompletionTool[];
const messages = [{ role: 'user' as const, content: 'What is the code of red?' }];
const jsonSchema = {
  type: 'json_schema',
  json_schema: { name: 'answer', strict: true, schema: SCHEMA },
} as const;

let plain: { model: string; temperature: number; max_completion_tokens: number };
beforeAll(async () => {
  plain = { model: (await target.model()).id, temperature: 0, max_completion_tokens: 120 };
});

function expectDocument(value: unknown): void {
  expect(value).toEqual({
    colour: expect.stringMatching(/^(red|green)$/) as string,
    isOpen: expect.any(Boolean) as boolean,
  });
}

describe('tools', () => {
  const ask = (tool_choice: OpenAI.ChatCompletionToolChoiceOption) =>
    target.client.chat.completions.create({
      ...plain,
      messages,
      tools: [...tools],
      tool_choice,
      parallel_tool_calls: false,
    });
  const calls = ({ choices }: OpenAI.ChatCompletion) =>
    (choices[0]?.message.tool_calls ?? []).flatMap((call) => (call.type === 'function' ? [call] : []));

  test('required: a valid call', async () => {
    const reply = await ask('required');
    expect(reply.choices[0]?.finish_reason).toBe('tool_calls');
    const [call] = calls(reply);
    expect(call).toMatchObject({ id: expect.stringMatching(/\S/) as string, type: 'function' });
    expect(call?.function.name).toMatch(/^(look_up|open_door)$/);
    expectDocument(JSON.parse(call?.function.arguments ?? ''));
  });

  test('named: that one; none: no call; auto is the default', async () => {
    const named = await ask({ type: 'function', function: { name: 'open_door' } });
    expect(calls(named).map((call) => call.function.name)).toEqual(['open_door']);
    expect(calls(await ask('none'))).toEqual([]);
    expect((await ask('auto')).choices).toHaveLength(1);
  });

  test('streamed: deltas that add up to the same call', async () => {
    const whole = calls(await ask('required'))[0];
    const stream = await target.client.chat.completions.create({
      ...plain,
      messages,
      tools: [...tools],
      tool_choice: 'required',
      parallel_tool_calls: false,
      stream: true,
    });
    const call = { name: '', text: '' };
    let reason: string | null | undefined;
    let numDeltas = 0;
    for await (const { choices } of stream) {
      for (const delta of choices[0]?.delta.tool_calls ?? []) {
        if (delta.index !== 0) continue;
        call.name += delta.function?.name ?? '';
        call.text += delta.function?.arguments ?? '';
        numDeltas++;
      }
      reason = choices[0]?.finish_reason ?? reason;
    }
    expect(call).toEqual({ name: whole?.function.name, text: whole?.function.arguments });
    expect(reason).toBe('tool_calls');
    expect(numDeltas).toBeGreaterThan(1);
  });

  test('a conversation with a call and its result', async () => {
    const [call] = calls(await ask('required'));
    if (call === undefined) throw new Error('expected a call');
    const reply = await target.client.chat.completions.create({
      ...plain,
      max_completion_tokens: 4,
      tools: [...tools],
      messages: [
        ...messages,
        { role: 'assistant', tool_calls: [call] },
        { role: 'tool', tool_call_id: call.id, content: '{"code":9}' },
      ],
    });
    expect(reply.choices[0]?.finish_reason).toMatch(/stop|length|tool_calls/);
  });

  test('responses', async () => {
    const { output } = await target.client.responses.create({
      model: plain.model,
      temperature: 0,
      max_output_tokens: 120,
      input: 'What is the code of red?',
      tools: [{ type: 'function', ...look, strict: true }],
      tool_choice: 'required',
    });
    const call = output.find((item) => item.type === 'function_call');
    expect(call).toMatchObject({ name: 'look_up', call_id: expect.stringMatching(/\S/) as string });
    expectDocument(JSON.parse(call?.arguments ?? ''));
  });

  test('what cannot be is refused', async () => {
    const refuse = async (fields: object, param: RegExp) =>
      expectError(await target.post(CHAT, { messages, max_tokens: 1, ...fields }), { status: 400, param });
    await refuse({ tool_choice: 'required' }, /^tool_choice/);
    await refuse({ tools, tool_choice: { type: 'function', function: { name: 'other' } } }, /^tool_choice/);
    await refuse({ tools: [{ type: 'function' }] }, /^tools\[0\]/);
    await refuse({ tools: 'x' }, /^tools/);
  });
});

describe('structured output', () => {
  test('a document of the schema, streamed and not', async () => {
    const body = { ...plain, messages, response_format: jsonSchema };
    const whole = await target.client.chat.completions.create(body);
    const text = whole.choices[0]?.message.content ?? '';
    expectDocument(JSON.parse(text));
    expect(whole.choices[0]?.finish_reason).toBe('stop');
    let streamed = '';
    for await (const { choices } of await target.client.chat.completions.create({ ...body, stream: true }))
      streamed += choices[0]?.delta.content ?? '';
    expect(streamed).toBe(text);
  });

  test('any object', async () => {
    const { choices } = await target.client.chat.completions.create({
      ...plain,
      messages,
      response_format: { type: 'json_object' },
    });
    const { message, finish_reason: reason } = choices[0] ?? {};
    expect(message?.content?.trimStart()).toMatch(/^\{/);
    if (reason === 'stop') expect(JSON.parse(message?.content ?? '')).toBeTypeOf('object');
  });

  test('responses, and a lane of a WebSocket', async () => {
    const response = await target.client.responses.create({
      model: plain.model,
      temperature: 0,
      max_output_tokens: 120,
      input: 'What is the code of red?',
      text: { format: { type: 'json_schema', name: 'answer', strict: true, schema: SCHEMA } },
    });
    expectDocument(JSON.parse(response.output_text));
    const client = await target.socket(CHAT);
    client.send({ type: 'chat.completion.create', ...plain, messages, response_format: jsonSchema });
    await client.until(({ type }) => type === 'chat.completion.done');
    const text = client.heard
      .flatMap((chunk) => (chunk['choices'] ?? []) as { delta: { content?: string } }[])
      .map(({ delta }) => delta.content ?? '');
    expectDocument(JSON.parse(text.join('')));
    await client.close();
  });

  test('beside pruning', async () => {
    const { json } = await target.post(CHAT, {
      ...plain,
      messages,
      response_format: jsonSchema,
      pruning: 'balanced',
    });
    const [choice] = json['choices'] as { message: { content: string } }[];
    expectDocument(JSON.parse(choice?.message.content ?? ''));
  });

  test('a bad schema is refused before anything is generated', async () => {
    for (const schema of [{ type: 'no-such' }, { type: 'object', properties: 5 }, 'x']) {
      const response_format = { type: 'json_schema', json_schema: { name: 'x', schema } };
      for (const stream of [true, false])
        expectError(await target.post(CHAT, { ...plain, messages, response_format, stream }), {
          status: 400,
          param: /^response_format/,
        });
      const text = { format: { type: 'json_schema', name: 'x', schema } };
      expectError(await target.post(RESPONSES, { input: 'x', text }), {
        status: 400,
        param: /^text\.format/,
      });
    }
    expectError(await target.post(CHAT, { messages, response_format: { type: 'no-such' } }), {
      status: 400,
      param: /^response_format/,
    });
  });
});

describe('LangChain', () => {
  const provider = () =>
    new ChatOpenAI({
      model: plain.model,
      apiKey: target.key,
      temperature: 0,
      maxTokens: 120,
      maxRetries: 0,
      configuration: { baseURL: `${target.url}/v1` },
    });

  test('bindTools', async () => {
    const message = await provider()
      .bindTools([...tools], { tool_choice: 'look_up' })
      .invoke('What is the code of red?');
    const [call] = message.tool_calls ?? [];
    expect(call?.name).toBe('look_up');
    expectDocument(call?.args);
  });

  test.each(['jsonSchema', 'functionCalling'] as const)('withStructuredOutput by %s', async (method) => {
    const model = provider().withStructuredOutput(SCHEMA, { name: 'answer', method, strict: true });
    expectDocument(await model.invoke('What is the code of red?'));
  });
});
