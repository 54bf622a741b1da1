/** Tools and reasoning in responses: what is refused, what the model is told, and the items that its text becomes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ChatTemplate } from '../../../src/text/chat-template.ts';
import { Tokenizer } from '../../../src/text/tokenizer.ts';
import { DEMO_MODEL, createTestServer } from '../support/app.ts';
import { ScriptedEngine, saying } from '../support/scripted-engine.ts';
import { checkEventOrder } from './event-order.ts';
import type { AnyEvent } from './event-order.ts';

const RESPONSES = '/v1/responses';
const tokenizer = Tokenizer.load(DEMO_MODEL);
const path = join(import.meta.dirname, '../../fixtures/chat/templates.json');
const SOURCES = JSON.parse(readFileSync(path, 'utf8')) as Record<string, { chat_template: string }>;

const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const WEATHER = { type: 'function', name: 'get_weather', description: 'Tells the weather', parameters };
const ADD = { type: 'function', name: 'add' };
const tools = [WEATHER, ADD];
const input = 'What is the weather in Ulm?';

interface Item {
  type: string;
  id: string;
  status: string;
  call_id?: string;
  name?: string;
  arguments?: string;
  content?: { text: string }[];
}
interface Reply {
  id: string;
  status: string;
  output: Item[];
  tools: unknown;
  tool_choice: unknown;
  usage: { output_tokens_details: { reasoning_tokens: number } };
}

function serverSaying(text: string, reason: 'stop' | 'length' = 'stop') {
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  const engine = new ScriptedEngine(saying(ids, reason));
  const template = new ChatTemplate({ default: SOURCES['qwen3']?.chat_template ?? '' }, { bos_token: '' });
  return { engine, server: createTestServer(engine, {}, { template }) };
}

/** An item by what a model can say with it. */
function told({ type, name, arguments: args, content }: Item): string[] {
  return name === undefined ? [type, content?.[0]?.text ?? ''] : [type, name, args ?? ''];
}

/** The same from a whole reply and from a stream. */
async function say(text: string, body: object = { tools }, reason: 'stop' | 'length' = 'stop') {
  const { server } = serverSaying(text, reason);
  const whole = (await (await server.post(RESPONSES, { input, ...body })).json()) as Reply;
  const streamed = await server.post(RESPONSES, { input, ...body, stream: true });
  const frames = (await streamed.text()).split('\n\n').slice(0, -1);
  const events = frames.map((frame) => JSON.parse(frame.slice(frame.indexOf('{'))) as AnyEvent);
  const response = checkEventOrder(events) as unknown as Reply;
  expect(response.output.map(told)).toEqual(whole.output.map(told));
  expect(response.usage).toEqual(whole.usage);
  return { response, events, items: response.output.map(told) };
}

const call = (city: string) =>
  `<tool_call>\n{"name": "get_weather", "arguments": {"city": "${city}"}}\n</tool_call>`;

describe('what a model says', () => {
  test('calls, behind text', async () => {
    const { response, items, events } = await say(`Let me see.\n${call('Ulm')}\n${call('Bonn')}`);
    expect(items).toEqual([
      ['message', 'Let me see.'],
      ['function_call', 'get_weather', '{"city": "Ulm"}'],
      ['function_call', 'get_weather', '{"city": "Bonn"}'],
    ]);
    expect(response.status).toBe('completed');
    expect(new Set(response.output.map(({ id }) => id)).size).toBe(3);
    const calls = response.output.slice(1);
    for (const item of calls) {
      expect(item.id).toMatch(/^fc_/);
      expect(item.call_id).toMatch(/^call_/);
    }
    const deltas = events.filter(({ type }) => type === 'response.function_call_arguments.delta');
    expect(deltas.length).toBeGreaterThan(3);
  });

  test('a thought, then an answer', async () => {
    const { response, items } = await say('<think>\nIt rains there.\n</think>\n\nRain.', {});
    expect(items).toEqual([
      ['reasoning', 'It rains there.'],
      ['message', 'Rain.'],
    ]);
    expect(response.output[0]).toMatchObject({ summary: [], content: [{ type: 'reasoning_text' }] });
    const { reasoning_tokens: numTokens } = response.usage.output_tokens_details;
    expect(numTokens).toBe(tokenizer.encodePlain('It rains there.').length);
  });

  test('a thought, then a call', async () => {
    const { items } = await say(`<think>\nWhere?\n</think>\n\n${call('Ulm')}`);
    expect(items.map(([type]) => type)).toEqual(['reasoning', 'function_call']);
  });

  test('a thought that is cut off is all there is', async () => {
    const { response, items } = await say('<think>\nIt rains', {}, 'length');
    expect(items).toEqual([['reasoning', 'It rains']]);
    expect(response.status).toBe('incomplete');
    expect(response.output[0]?.status).toBe('incomplete');
  });

  test('no call without tools, or where none may be chosen', async () => {
    for (const body of [{}, { tools, tool_choice: 'none' }]) {
      const { items } = await say(call('Ulm'), body);
      expect(items).toEqual([['message', call('Ulm')]]);
    }
  });

  test('the response repeats the tools and the choice', async () => {
    const { response } = await say('a', { tools, tool_choice: 'auto', parallel_tool_calls: true });
    expect(response).toMatchObject({ tools, tool_choice: 'auto', parallel_tool_calls: true });
  });
});

describe('what a model is told', () => {
  const chatTools = tools.map(({ type, ...definition }) => ({ type, function: definition }));

  test('tools, calls and results as in a chat, continued or given again', async () => {
    const { engine, server } = serverSaying(`Let me see.\n${call('Ulm')}`);
    const first = (await (await server.post(RESPONSES, { input, tools })).json()) as Reply;
    const called = first.output[1];
    const result = { type: 'function_call_output', call_id: called?.call_id, output: 'Rain' };
    await server.post(RESPONSES, { input: [result], tools, previous_response_id: first.id });
    await server.post(RESPONSES, {
      input: [{ role: 'user', content: input }, ...first.output, result],
      tools,
    });
    const id = called?.call_id;
    const toolCall = { id, type: 'function', function: { name: called?.name, arguments: called?.arguments } };
    await server.post('/v1/chat/completions', {
      tools: chatTools,
      messages: [
        { role: 'user', content: input },
        { role: 'assistant', content: 'Let me see.', tool_calls: [toolCall] },
        { role: 'tool', tool_call_id: id, content: 'Rain' },
      ],
    });
    const [, continued, repeated, chat] = engine.requests.map(({ promptIds }) => promptIds);
    expect(tokenizer.decode(continued ?? [])).toContain('<tool_response>\nRain');
    expect(continued).toEqual(chat);
    expect(repeated).toEqual(chat);
  });

  test('variables of the template', async () => {
    const { engine, server } = serverSaying('a');
    await server.post(RESPONSES, { input, chat_template_kwargs: { enable_thinking: false } });
    expect(tokenizer.decode(engine.requests[0]?.promptIds ?? [])).toMatch(/<think>\s*<\/think>\s*$/);
  });
});

describe('refused by name', () => {
  test.each<[object, string, string | null]>([
    [{ tools: [{ type: 'web_search' }] }, 'tools[0].type', 'unsupported_value'],
    [{ tools: [WEATHER, { type: 'mcp', server_label: 'x' }] }, 'tools[1].type', 'unsupported_value'],
    [{ tools: [{ type: 'function', name: 'no spaces' }] }, 'tools[0].name', null],
    [{ tools: [{ type: 'function' }] }, 'tools[0].name', null],
    [{ tools: [ADD, ADD] }, 'tools[1].name', null],
    [{ tools: [{ type: 'spell' }] }, 'tools[0].type', null],
    [{ tools: 5 }, 'tools', null],
    [{ tool_choice: 'required' }, 'tool_choice', null],
    [{ tools, tool_choice: 'often' }, 'tool_choice', null],
    [{ tools, tool_choice: { type: 'function', name: 'unknown' } }, 'tool_choice.name', null],
    [
      {
        tools,
        tool_choice: {
          type: 'allowed_tools',
          mode: 'auto',
          tools: [{ type: 'function', name: 'unknown' }],
        },
      },
      'tool_choice.tools[0].name',
      null,
    ],
    [
      {
        input: [
          { type: 'function_call', call_id: 'call_1', name: 'add', arguments: 'no json' },
          { type: 'function_call_output', call_id: 'call_1', output: 'x' },
        ],
      },
      'input',
      null,
    ],
  ])('%j', async (body, param, code) => {
    const { engine, server } = serverSaying('a');
    const reply = await server.post(RESPONSES, { input, ...body });
    expect(reply.status).toBe(400);
    const { error } = (await reply.json()) as { error: { message: string } };
    expect(error).toMatchObject({ type: 'invalid_request_error', param, code });
    expect(error.message).not.toMatch(/\.function\.|allowed_tools\.|messages\[/);
    expect(engine.requests).toEqual([]);
  });
});
