/** Tools in chats: what is checked, what the model is told, and how calls and thoughts come out of what it writes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type OpenAI from 'openai';
import { describe, expect, test } from 'vitest';
import { ChatTemplate } from '../../src/text/chat-template.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { DEMO_MODEL, createTestServer, parseEvents, readEvents } from './support/app.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const tokenizer = Tokenizer.load(DEMO_MODEL);
const messages = [{ role: 'user', content: 'What is the weather in Ulm?' }];
const WEATHER = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Tells the weather',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
};
const ADD = { type: 'function', function: { name: 'add' } };
const tools = [WEATHER, ADD];

const path = join(import.meta.dirname, '../fixtures/chat/templates.json');
const SOURCES = JSON.parse(readFileSync(path, 'utf8')) as Record<string, { chat_template: string }>;
const template = (name: string) =>
  new ChatTemplate({ default: SOURCES[name]!.chat_template }, { bos_token: '' });

type Completion = OpenAI.ChatCompletion;
type Chunk = OpenAI.ChatCompletionChunk;
interface Message {
  content: string | null;
  reasoning_content?: string;
  tool_calls?: { id: string; type: string; function: { name: string; arguments: string } }[];
}
interface Read {
  content: string | null;
  reasoning_content?: string;
  tool_calls?: { name: string; arguments: string }[];
  finish_reason: string;
}

function serverSaying(text: string, name: string, reason: 'stop' | 'length' = 'stop') {
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  const engine = new ScriptedEngine(saying(ids, reason));
  return { engine, server: createTestServer(engine, {}, { template: template(name) }) };
}

function fromWhole({ choices: [choice] }: Completion): Read {
  const { content, reasoning_content, tool_calls } = choice!.message as unknown as Message;
  for (const call of tool_calls ?? []) {
    expect(Object.keys(call)).toEqual(['id', 'type', 'function']);
    expect(call).toMatchObject({ id: expect.stringMatching(/^call_\w{24}$/) as string, type: 'function' });
  }
  return {
    content,
    ...(reasoning_content !== undefined && { reasoning_content }),
    ...(tool_calls && { tool_calls: tool_calls.map((call) => call.function) }),
    finish_reason: choice!.finish_reason,
  };
}

/** What a client makes of a stream's chunks. */
function fromChunks(chunks: readonly Chunk[]): Read {
  const read: Read = { content: null, finish_reason: '' };
  for (const { choices } of chunks) {
    for (const { delta, finish_reason } of choices) {
      const more = delta as typeof delta & { reasoning_content?: string };
      if (more.content) read.content = (read.content ?? '') + more.content;
      if (more.reasoning_content !== undefined)
        read.reasoning_content = (read.reasoning_content ?? '') + more.reasoning_content;
      for (const call of more.tool_calls ?? []) {
        read.tool_calls ??= [];
        if (call.id !== undefined) {
          expect(call.index).toBe(read.tool_calls.length);
          expect(call.type).toBe('function');
          read.tool_calls.push({ name: call.function!.name!, arguments: '' });
        }
        read.tool_calls[call.index]!.arguments += call.function!.arguments ?? '';
      }
      if (finish_reason !== null) read.finish_reason = finish_reason;
    }
  }
  return read;
}

/** The same from a whole reply and from a stream. */
async function say(text: string, name: string, body: object = { tools }, reason: 'stop' | 'length' = 'stop') {
  const { server } = serverSaying(text, name, reason);
  const whole = await server.post(CHAT, { messages, ...body });
  expect(whole.status).toBe(200);
  const streamed = await server.post(CHAT, { messages, ...body, stream: true });
  const chunks = parseEvents<Chunk>(await readEvents(streamed));
  const read = fromWhole((await whole.json()) as Completion);
  expect(fromChunks(chunks)).toEqual({ ...read, content: read.content === '' ? null : read.content });
  return { read, chunks };
}

const weather = { name: 'get_weather', arguments: '{"city": "Ulm"}' };
const add = { name: 'add', arguments: '{"a": [1, 2]}' };
const tagged = (call: typeof add) =>
  `<tool_call>\n{"name": "${call.name}", "arguments": ${call.arguments}}\n</tool_call>`;

describe('calls in a reply', () => {
  test.each(['qwen3', 'chatml'])('of a model with the template %s', async (name) => {
    const { read } = await say(`Let me see.\n${tagged(weather)}\n${tagged(add)}`, name);
    expect(read).toEqual({ content: 'Let me see.', tool_calls: [weather, add], finish_reason: 'tool_calls' });
  });

  test('of a model with the template llama3', async () => {
    const { read } = await say('{"name": "get_weather", "parameters": {"city": "Ulm"}}', 'llama3');
    expect(read).toEqual({ content: null, tool_calls: [weather], finish_reason: 'tool_calls' });
  });

  test('come piece by piece, none of a marker beside them', async () => {
    const { chunks } = await say(tagged(weather), 'qwen3');
    const deltas = chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta));
    const calls = deltas.flatMap((delta) => delta.tool_calls ?? []);
    expect(calls.length).toBeGreaterThan(3);
    expect(calls.slice(1).map((call) => Object.keys(call))).toEqual(
      calls.slice(1).map(() => ['index', 'function']),
    );
    expect(deltas.map(({ content }) => content ?? '').join('')).toBe('');
    expect(chunks.at(-1)!.choices[0]).toMatchObject({ delta: {}, finish_reason: 'tool_calls' });
  });

  test('that are cut short end with length', async () => {
    const { read } = await say(tagged(weather).slice(0, -18), 'qwen3', { tools }, 'length');
    expect(read.finish_reason).toBe('length');
    expect(read.tool_calls).toEqual([{ name: 'get_weather', arguments: '{"city": "U' }]);
  });

  test('end at a stop string', async () => {
    const { read } = await say(tagged(weather) + tagged(add), 'qwen3', { tools, stop: '</tool_call>' });
    expect(read).toEqual({ content: null, tool_calls: [weather], finish_reason: 'tool_calls' });
  });

  test('that are none are content', async () => {
    const text = '<tool_call>\n{"nam": "add"}\n</tool_call>';
    expect((await say(text, 'qwen3')).read).toEqual({ content: text, finish_reason: 'stop' });
  });

  test.each([{}, { tools: [] }, { tools, tool_choice: 'none' }])('are content with %j', async (body) => {
    const { read } = await say(tagged(add), 'qwen3', body);
    expect(read).toEqual({ content: tagged(add), finish_reason: 'stop' });
  });

  test('come for each choice', async () => {
    const { server } = serverSaying(tagged(add), 'qwen3');
    const reply = await server.post(CHAT, { messages, tools, n: 2 });
    const { choices } = (await reply.json()) as Completion;
    const ids = choices.map(({ message }) => message.tool_calls![0]!.id);
    expect(new Set(ids).size).toBe(2);
  });

  test('are counted as such', async () => {
    const { server } = serverSaying(tagged(add), 'qwen3');
    await server.post(CHAT, { messages, tools });
    const metrics = await (await server.app.request('/metrics')).text();
    expect(metrics).toMatch(/coppice_request_success_total\{.*finish_reason="tool_calls".*\} 1\n/);
  });
});

describe('reasoning', () => {
  const thought = '<think>\nHm. 1 < 2\n</think>\n\n';

  test('stands apart from content and calls', async () => {
    const { read } = await say(`${thought}Yes.\n${tagged(add)}`, 'qwen3');
    expect(read).toEqual({
      content: 'Yes.',
      reasoning_content: 'Hm. 1 < 2',
      tool_calls: [add],
      finish_reason: 'tool_calls',
    });
  });

  test('needs no tools', async () => {
    const { read } = await say(`${thought}Yes.`, 'qwen3', {});
    expect(read).toEqual({ content: 'Yes.', reasoning_content: 'Hm. 1 < 2', finish_reason: 'stop' });
  });

  test('may be all there is', async () => {
    const { read } = await say('<think>Hm', 'qwen3', {}, 'length');
    expect(read).toEqual({ content: null, reasoning_content: 'Hm', finish_reason: 'length' });
  });

  test('is not looked for where the prompt has it behind itself, or the template has none', async () => {
    const off = { chat_template_kwargs: { enable_thinking: false } };
    expect((await say('<think>a</think>b', 'qwen3', off)).read.content).toBe('<think>a</think>b');
    expect((await say('<think>a</think>b', 'chatml', {})).read.content).toBe('<think>a</think>b');
  });
});

describe('the prompt', () => {
  async function promptOf(name: string, body: object): Promise<string> {
    const { engine, server } = serverSaying('Hi', name);
    const reply = await server.post(CHAT, { messages, ...body });
    expect(reply.status).toBe(200);
    return tokenizer.decode(engine.requests[0]!.promptIds, { skipSpecialTokens: false });
  }

  test.each(['qwen3', 'chatml', 'llama3', 'gemma'])('tells of tools with the template %s', async (name) => {
    expect(await promptOf(name, { tools })).toContain('Tells the weather');
    expect(await promptOf(name, { tools, tool_choice: 'none' })).not.toContain('Tells the weather');
  });

  test.each(['qwen3', 'chatml'])(
    'is what /tokenize shows for the same fields, with the template %s',
    async (name) => {
      const { engine, server } = serverSaying('Hi', name);
      const body = { messages, tools, chat_template_kwargs: { enable_thinking: false } };
      await server.post(CHAT, body);
      const { tokens } = (await (await server.post('/tokenize', body)).json()) as { tokens: number[] };
      expect(tokens).toEqual([...engine.requests[0]!.promptIds]);
      const refused = (await (await server.post('/tokenize', { prompt: 'x', tools })).json()) as object;
      expect(refused).toMatchObject({ error: { param: 'tools' } });
    },
  );

  test('has earlier calls, thoughts and results', async () => {
    const reply = await serverSaying(tagged(weather), 'qwen3').server.post(CHAT, { messages, tools });
    const { message } = ((await reply.json()) as Completion).choices[0]!;
    const result = { role: 'tool', tool_call_id: message.tool_calls![0]!.id, content: 'It rains.' };
    const said = { ...message, reasoning_content: 'Better ask.' };
    const prompt = await promptOf('qwen3', { tools, messages: [...messages, said, result] });
    expect(prompt).toContain(`<think>\nBetter ask.\n</think>\n\n${tagged(weather)}`);
    expect(prompt).toContain('<tool_response>\nIt rains.\n</tool_response>');
  });

  test('may come with parts as the result', async () => {
    const asked = {
      role: 'assistant',
      content: null,
      tool_calls: [{ id: 'x', type: 'function', function: add }],
    };
    const content = [{ type: 'text', text: 'three' }];
    const body = { messages: [...messages, asked, { role: 'tool', tool_call_id: 'x', content }] };
    expect(await promptOf('qwen3', body)).toContain('<tool_response>\nthree\n');
    expect(await promptOf('chatml', body)).toContain('<tool_response>\nthree\n');
  });
});

describe('what is wrong is named', () => {
  const call = { id: 'x', type: 'function', function: { name: 'add', arguments: '{}' } };
  const named = (name: string) => ({ type: 'function', function: { name } });
  const asked = { role: 'assistant', content: null, tool_calls: [call] };
  const result = { role: 'tool', tool_call_id: 'x', content: '1' };

  test.each([
    [{ tools: {} }, 'tools'],
    [{ tools: [{ type: 'custom', custom: {} }] }, 'tools[0].type'],
    [{ tools: [ADD, { type: 'function' }] }, 'tools[1].function'],
    [{ tools: [named('a b')] }, 'tools[0].function.name'],
    [{ tools: [named('a'.repeat(65))] }, 'tools[0].function.name'],
    [{ tools: [ADD, WEATHER, ADD] }, 'tools[2].function.name'],
    [
      { tools: [{ type: 'function', function: { name: 'a', parameters: 'x' } }] },
      'tools[0].function.parameters',
    ],
    [{ tools: [{ type: 'function', function: { name: 'a', strict: 1 } }] }, 'tools[0].function.strict'],
    [{ tools: Array.from({ length: 129 }, (_, i) => named(`f${i}`)) }, 'tools'],
    [{ tools, tool_choice: 'always' }, 'tool_choice'],
    [{ tools, tool_choice: named('sub') }, 'tool_choice.function.name'],
    [{ tools, tool_choice: { type: 'function' } }, 'tool_choice.function'],
    [{ tool_choice: 'required' }, 'tool_choice'],
    [{ tool_choice: 'auto', tools: [] }, 'tool_choice'],
    [{ tools, parallel_tool_calls: 'no' }, 'parallel_tool_calls'],
    [
      {
        tools,
        tool_choice: { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [ADD, named('b')] } },
      },
      'tool_choice.allowed_tools.tools[1].function.name',
    ],
    [{ messages: [asked, { ...result, tool_call_id: 'y' }] }, 'messages[1].tool_call_id'],
    [{ messages: [result] }, 'messages[0].tool_call_id'],
    [{ messages: [{ role: 'tool', content: 'x' }] }, 'messages[0].tool_call_id'],
    [{ messages: [{ role: 'assistant', content: null }] }, 'messages[0].content'],
    [
      { messages: [{ role: 'assistant', tool_calls: [{ ...call, id: '' }] }] },
      'messages[0].tool_calls[0].id',
    ],
    [
      { messages: [{ ...asked, tool_calls: [{ ...call, function: { name: 'add', arguments: '[]' } }] }] },
      'messages[0].tool_calls[0].function.arguments',
    ],
    [{ messages, chat_template_kwargs: { tools: [] } }, 'chat_template_kwargs.tools'],
  ])('%j', async (body, param) => {
    const { server } = serverSaying('Hi', 'qwen3');
    const reply = await server.post(CHAT, { messages, ...body });
    const { error } = (await reply.json()) as {
      error: { message: string; param: string; code: string | null };
    };
    expect({ status: reply.status, param: error.param, code: error.code }).toEqual({
      status: 400,
      param,
      code: null,
    });
    expect(error.message).toMatch(/expected/);
  });
});
