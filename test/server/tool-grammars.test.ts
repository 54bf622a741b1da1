/** The grammars of tool calls: texts that they take are read as calls, others are refused. */
import type { StructuralTagFormat } from '@mlc-ai/web-xgrammar';
import { describe, expect, test } from 'vitest';
import { loadGrammarLibrary } from '../../src/runtime/constraint/library.ts';
import { replyGrammar } from '../../src/server/reply-grammar.ts';
import { toolFields } from '../../src/server/schemas/tools.ts';
import { readToolUse } from '../../src/server/tools.ts';
import type { ReasoningStage } from '../../src/text/reasoning.ts';
import { ChatTemplate } from '../../src/text/chat-template.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { z } from 'zod';
import { DEMO_MODEL } from './support/app.ts';

const tokenizer = Tokenizer.load(DEMO_MODEL);
const { Grammar, Testings } = loadGrammarLibrary();

const SOURCES = {
  hermes: '{{ tools }}<tool_call>{{ messages }}',
  'llama3-json': '{{ tools }}<|python_tag|>{{ messages }}',
  mistral: '{{ tools }}[TOOL_CALLS] [{{ messages }}',
  'mistral-args': '{{ tools }}[TOOL_CALLS]x[ARGS]{{ messages }}',
};
type Name = keyof typeof SOURCES;

const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const tools = [
  { type: 'function', function: { name: 'weather', parameters, strict: true } },
  { type: 'function', function: { name: 'weather_map' } },
];
const CONTENT: StructuralTagFormat = {
  type: 'json_schema',
  json_schema: { type: 'object', properties: { ok: { type: 'boolean' } }, required: ['ok'] },
};

interface Options {
  readonly content?: StructuralTagFormat | null;
  readonly reasoning?: ReasoningStage;
}

function grammarOf(name: Name, fields: object, { content = null, reasoning = 'none' }: Options = {}) {
  const template = new ChatTemplate({ default: SOURCES[name] }, {});
  return replyGrammar(
    readToolUse(z.object(toolFields).parse(fields), { template, tokenizer }),
    content,
    reasoning,
  );
}

async function takes(format: StructuralTagFormat | null, text: string): Promise<boolean> {
  expect(format).not.toBeNull();
  const grammar = await Grammar.fromStructuralTag({ type: 'structural_tag', format: format! });
  try {
    return await Testings.isGrammarAcceptString(grammar, text);
  } finally {
    grammar.dispose();
  }
}

type Call = readonly [name: string, args: string];
const ULM: Call = ['weather', '{"city": "Ulm"}'];
const MAP: Call = ['weather_map', '{}'];

const WRITERS: Record<Name, (...calls: Call[]) => string> = {
  hermes: (...calls) =>
    calls.map(([n, a]) => `<tool_call>\n{"name": "${n}", "arguments": ${a}}\n</tool_call>`).join('\n'),
  'llama3-json': (...calls) => calls.map(([n, a]) => `{"name": "${n}", "parameters": ${a}}`).join('; '),
  mistral: (...calls) =>
    `[TOOL_CALLS] [${calls.map(([n, a]) => `{"name": "${n}", "arguments": ${a}}`).join(', ')}]`,
  'mistral-args': (...calls) => calls.map(([n, a]) => `[TOOL_CALLS]${n}[ARGS]${a}`).join(''),
};

describe.each(Object.keys(SOURCES) as Name[])('%s', (name) => {
  const write = WRITERS[name];
  const named = { type: 'function', function: { name: 'weather' } };

  test('required: calls, and nothing else', async () => {
    const grammar = grammarOf(name, { tools, tool_choice: 'required' });
    expect(await takes(grammar, write(ULM))).toBe(true);
    expect(await takes(grammar, write(MAP))).toBe(true);
    expect(await takes(grammar, '')).toBe(false);
    expect(await takes(grammar, 'Hello')).toBe(false);
    expect(await takes(grammar, `${write(ULM)} Hello`)).toBe(false);
    expect(await takes(grammar, write(['weather', '{"town": "Ulm"}']))).toBe(false);
    expect(await takes(grammar, write(['map', '{}']))).toBe(false);
  });

  test('required: several, unless parallel_tool_calls forbids it', async () => {
    const body = { tools, tool_choice: 'required' };
    expect(await takes(grammarOf(name, body), write(ULM, MAP, ULM))).toBe(true);
    const single = grammarOf(name, { ...body, parallel_tool_calls: false });
    expect(await takes(single, write(ULM))).toBe(true);
    expect(await takes(single, write(ULM, MAP))).toBe(false);
  });

  test('named: one call of this tool', async () => {
    const grammar = grammarOf(name, { tools, tool_choice: named });
    expect(await takes(grammar, write(ULM))).toBe(true);
    expect(await takes(grammar, write(MAP))).toBe(false);
    expect(await takes(grammar, write(ULM, ULM))).toBe(false);
  });

  test('auto: text, and calls of strict tools as their schema says', async () => {
    const grammar = grammarOf(name, { tools });
    expect(await takes(grammar, 'Hello {"name": 1}')).toBe(true);
    expect(await takes(grammar, write(ULM))).toBe(true);
    expect(await takes(grammar, write(ULM, MAP))).toBe(true);
    expect(await takes(grammar, write(['weather_map', '{"any": [1]}']))).toBe(true);
    expect(await takes(grammar, write(['weather', '{"any": [1]}']))).toBe(false);
  });

  test('auto: nothing is enforced that nobody asked for', () => {
    expect(grammarOf(name, { tools: tools.slice(1) })).toBeNull();
    expect(grammarOf(name, { tools: tools.slice(1), parallel_tool_calls: true })).toBeNull();
    expect(grammarOf(name, { tools: tools.slice(1), parallel_tool_calls: false })).not.toBeNull();
    expect(grammarOf(name, { tools, tool_choice: 'none' })).toBeNull();
    expect(grammarOf(name, {})).toBeNull();
  });

  test('allowed_tools: only these', async () => {
    const allowed = { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [named] } };
    const grammar = grammarOf(name, { tools, tool_choice: allowed });
    expect(await takes(grammar, 'Hello')).toBe(true);
    expect(await takes(grammar, write(ULM))).toBe(true);
    expect(await takes(grammar, write(MAP))).toBe(false);
  });

  test.each([tools, tools.slice(1)].map((some) => [some.length, some] as const))(
    'with a format for content, %i tools: that or calls',
    async (_, some) => {
      const grammar = grammarOf(name, { tools: some }, { content: CONTENT });
      expect(await takes(grammar, '{"ok": true}')).toBe(true);
      expect(await takes(grammar, write(MAP))).toBe(true);
      expect(await takes(grammar, 'Hello')).toBe(false);
      expect(await takes(grammar, '{"ok": 1}')).toBe(false);
    },
  );

  test('with a format for content, required: calls', async () => {
    const grammar = grammarOf(name, { tools, tool_choice: 'required' }, { content: CONTENT });
    expect(await takes(grammar, write(ULM))).toBe(true);
    expect(await takes(grammar, '{"ok": true}')).toBe(false);
  });

  test.each(['required', 'auto'])('%s after a thought', async (choice) => {
    const body = { tools, tool_choice: choice };
    const possible = grammarOf(name, body, { reasoning: 'possible' });
    expect(await takes(possible, write(ULM))).toBe(true);
    expect(await takes(possible, `<think>\nHm <tool_call> {\n</think>\n\n${write(ULM)}`)).toBe(true);
    const open = grammarOf(name, body, { reasoning: 'open' });
    expect(await takes(open, `Hm</think>${write(ULM)}`)).toBe(true);
    expect(await takes(open, write(['weather', '{"any": 1}']))).toBe(false);
  });
});

describe('parameters', () => {
  const readWith = (schema: object, choice = 'required') => {
    const one = { type: 'function', function: { name: 'f', parameters: schema } };
    return grammarOf('hermes', { tools: [tools[1], one], tool_choice: choice });
  };
  const object = { type: 'object' };

  test.each([
    [{ type: 'string' }, 'tools[1].function.parameters'],
    [{ anyOf: [object, { type: 'array', items: object }] }, 'tools[1].function.parameters'],
    [{ type: 'object', properties: { a: { type: 'strange' } } }, 'tools[1].function.parameters'],
    [{ type: 'object', properties: { a: { not: object } } }, 'tools[1].function.parameters'],
  ])('%j are refused where they have to be enforced', (schema, param) => {
    expect(() => readWith(schema)).toThrow(expect.objectContaining({ param }) as Error);
    expect(readWith(schema, 'auto')).toBeNull();
  });

  test.each([
    {},
    object,
    { anyOf: [object, { type: 'object', properties: {} }] },
    {
      $ref: '#/$defs/a',
      $defs: { a: { type: 'object', properties: { next: { $ref: '#/$defs/a' } } } },
    },
  ])('%j are objects', async (schema) => {
    expect(await takes(readWith(schema), WRITERS.hermes(['f', '{}']))).toBe(true);
    expect(await takes(readWith(schema), WRITERS.hermes(['f', '[]']))).toBe(false);
  });
});

test('content alone may follow a thought', async () => {
  const grammar = grammarOf('hermes', {}, { content: CONTENT, reasoning: 'possible' });
  expect(await takes(grammar, '<think>a</think>\n{"ok": true}')).toBe(true);
  expect(await takes(grammar, '{"ok": true}')).toBe(true);
  expect(await takes(grammar, 'a')).toBe(false);
});
