/** Tools with the real engine: in each format even a tiny model answers with a valid call, and goes on after it. */
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../src/runtime/protocol.ts';
import { ChatTemplate } from '../../src/text/chat-template.ts';
import { createTestServer } from './support/app.ts';
import { startDemoEngine } from './support/live.ts';

let engine: Engine;
beforeAll(async () => {
  engine = await startDemoEngine();
});
afterAll(() => engine.close());

const HEAD = '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}';
const TAIL =
  '{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{% if tools %}{{ tools | tojson }}{% endif %}';
/** Templates that know tools, in each format. */
const TEMPLATES: Record<string, string> = {
  hermes: `${HEAD}<tool_call>{{ m.tool_calls }}</tool_call>${TAIL}`,
  'llama3-json': `${HEAD}<|python_tag|>{{ m.tool_calls }}${TAIL}`,
  mistral: `${HEAD}[TOOL_CALLS] {{ m.tool_calls }}${TAIL}`,
  'mistral-args': `${HEAD}[TOOL_CALLS]{{ m.tool_calls }}[ARGS]${TAIL}`,
  thinking: `${HEAD}<tool_call>{{ m.tool_calls }}${TAIL}<think>`,
};

function clientOf(source?: string): OpenAI {
  const changes = source === undefined ? {} : { template: new ChatTemplate({ default: source }, {}) };
  const { app } = createTestServer(engine, {}, changes);
  const fetch = async (url: string | URL | Request, init?: RequestInit) => app.request(url, init);
  return new OpenAI({ baseURL: 'http://localhost/v1', apiKey: 'none', maxRetries: 0, fetch });
}

const parameters = {
  type: 'object',
  properties: {
    room: { type: 'string', enum: ['kitchen', 'hall'] },
    level: { type: 'integer', minimum: 0, maximum: 9 },
    on: { type: 'boolean' },
  },
  required: ['room', 'level', 'on'],
  additionalProperties: false,
};
const tools = ['set_light', 'set_lamp'].map((name) => ({
  type: 'function' as const,
  function: { name, description: 'Switches a light', parameters },
}));
const base = {
  model: 'coppice-recall',
  messages: [{ role: 'user' as const, content: 'Light in the hall!' }],
  tools,
  temperature: 1,
  seed: 5,
  max_completion_tokens: 300,
};

function expectArguments(text: string): void {
  const { room, level, on, ...rest } = JSON.parse(text) as Record<string, unknown>;
  expect(['kitchen', 'hall']).toContain(room);
  expect(level).toSatisfy((value) => Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 9);
  expect(on).toBeTypeOf('boolean');
  expect(rest).toEqual({});
}

function callsOf({ choices }: OpenAI.ChatCompletion) {
  return (choices[0]?.message.tool_calls ?? []).filter((call) => call.type === 'function');
}

describe.each(['hermes', 'llama3-json', 'mistral', 'mistral-args'])('%s', (format) => {
  const client = () => clientOf(TEMPLATES[format]);

  test('required', async () => {
    const body = { ...base, tool_choice: 'required' as const, parallel_tool_calls: false };
    const reply = await client().chat.completions.create(body);
    const [call, ...others] = callsOf(reply);
    expect(others).toEqual([]);
    expect(['set_light', 'set_lamp']).toContain(call?.function.name);
    expectArguments(call!.function.arguments);
    expect(reply.choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { content: null } });
    if (format.startsWith('mistral')) expect(call!.id).toMatch(/^[A-Za-z0-9]{9}$/);

    const stream = client().chat.completions.stream(body);
    const deltas: string[] = [];
    stream.on('tool_calls.function.arguments.delta', ({ arguments_delta }) => deltas.push(arguments_delta));
    const streamed = await stream.finalChatCompletion();
    expect(callsOf(streamed).map((other) => other.function)).toMatchObject([call!.function]);
    expect(deltas.length).toBeGreaterThan(2);
    expect(deltas.join('')).toBe(call!.function.arguments);
  });

  test('named, for several choices, with log-probabilities', async () => {
    const reply = await client().chat.completions.create({
      ...base,
      tool_choice: { type: 'function', function: { name: 'set_lamp' } },
      n: 3,
      logprobs: true,
    });
    expect(reply.choices).toHaveLength(3);
    for (const { message, finish_reason, logprobs } of reply.choices) {
      const [call, ...others] = callsOf({ ...reply, choices: [{ message } as OpenAI.ChatCompletion.Choice] });
      expect(others).toEqual([]);
      expect(call?.function.name).toBe('set_lamp');
      expectArguments(call!.function.arguments);
      expect(finish_reason).toBe('tool_calls');
      expect(logprobs?.content?.map(({ token }) => token).join('')).toContain(call!.function.arguments);
    }
  });

  test('none, and a round trip', async () => {
    const none = await client().chat.completions.create({
      ...base,
      tool_choice: 'none',
      max_completion_tokens: 10,
    });
    expect(callsOf(none)).toEqual([]);
    const first = await client().chat.completions.create({
      ...base,
      tool_choice: 'required',
      parallel_tool_calls: false,
    });
    const { message } = first.choices[0]!;
    const [call] = callsOf(first);
    const result = { role: 'tool' as const, tool_call_id: call!.id, content: 'done' };
    const second = await client().chat.completions.create({
      ...base,
      messages: [...base.messages, message, result],
      max_completion_tokens: 10,
    });
    expect(second.choices).toHaveLength(1);
  });
});

test("a template without tools: the client's own loop calls the function and goes on", async () => {
  const seen: unknown[] = [];
  const runner = clientOf().chat.completions.runTools({
    ...base,
    tool_choice: { type: 'function', function: { name: 'set_lamp' } },
    tools: [
      {
        type: 'function',
        function: {
          name: 'set_lamp',
          description: 'Switches a light',
          parameters,
          parse: (text: string) => JSON.parse(text) as object,
          function: (args: object) => {
            seen.push(args);
            return 'done';
          },
        },
      },
    ],
  });
  await runner.done();
  expect(seen).toHaveLength(1);
  expectArguments(JSON.stringify(seen[0]));
});

test('a format for the text beside tools: that or a call', async () => {
  const reply = await clientOf(TEMPLATES.hermes).chat.completions.create({
    ...base,
    response_format: { type: 'json_schema', json_schema: { name: 'light', schema: parameters } },
  });
  const [call] = callsOf(reply);
  expectArguments(call?.function.arguments ?? reply.choices[0]!.message.content!);
});

test('strict tools and the free choice', async () => {
  const strict = tools.map((tool) => ({ ...tool, function: { ...tool.function, strict: true } }));
  const body = { ...base, tools: strict, max_completion_tokens: 40, logit_bias: {} };
  const reply = await clientOf(TEMPLATES.hermes).chat.completions.create(body);
  for (const call of callsOf(reply)) expectArguments(call.function.arguments);
});

test('a thought first, which the prompt opened, then the call', async () => {
  const client = clientOf(TEMPLATES.thinking);
  const reply = await client.chat.completions.create({
    ...base,
    tool_choice: 'required',
    max_completion_tokens: 60,
  });
  const { message, finish_reason } = reply.choices[0]!;
  const { reasoning_content: reasoning } = message as { reasoning_content?: string };
  expect(reasoning ?? '').not.toContain('think>');
  if (callsOf(reply).length === 0) expect(finish_reason).toBe('length');
});
