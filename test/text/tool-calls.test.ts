import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { CallEvent, ToolCallFormat } from '../../src/text/tool-calls/contract.ts';
import { hermes } from '../../src/text/tool-calls/hermes.ts';
import { TOOL_CALL_FORMATS, toolCallFormat } from '../../src/text/tool-calls/index.ts';
import { llama3Json } from '../../src/text/tool-calls/llama3-json.ts';
import { mistral, mistralArgs } from '../../src/text/tool-calls/mistral.ts';

interface Read {
  content: string;
  calls: { name: string; arguments: string }[];
}

const NAMES = new Set(['add', 'get_weather']);

function read(format: ToolCallFormat, pieces: readonly string[], hidden: readonly string[] = []): Read {
  const parser = format.createParser({ names: NAMES, hidden: new Set(hidden) });
  const result: Read = { content: '', calls: [] };
  const events: CallEvent[] = [...pieces.flatMap((piece) => parser.push(piece)), ...parser.finish()];
  for (const event of events) {
    if (event.type === 'content') result.content += event.text;
    else if (event.type === 'call') {
      expect(event.index).toBe(result.calls.length);
      result.calls.push({ name: event.name, arguments: '' });
    } else {
      const call = result.calls[event.index];
      expect(event.index).toBe(result.calls.length - 1);
      call!.arguments += event.text;
    }
  }
  return result;
}

const weather = { name: 'get_weather', arguments: '{"city": "Ulm"}' };
const add = { name: 'add', arguments: '{"a": [1, {"b": "}"}], "c": "\\"]</tool_call>"}' };

interface Example {
  readonly title: string;
  readonly format: ToolCallFormat;
  readonly text: string;
  readonly content: string;
  readonly calls: readonly { name: string; arguments: string }[];
  readonly hidden?: readonly string[];
}

function called(begin: string, { name, arguments: args }: typeof add, key: string, end = ''): string {
  return `${begin}{"name": "${name}", "${key}": ${args}}${end}`;
}

const tagged = (call: typeof add) => called('<tool_call>\n', call, 'arguments', '\n</tool_call>');
const plain = (call: typeof add) => called('', call, 'parameters');
const listed = (call: typeof add) => called('', call, 'arguments');

const EXAMPLES: Example[] = [
  { title: 'one call', format: hermes, text: tagged(weather), content: '', calls: [weather] },
  {
    title: 'two calls',
    format: hermes,
    text: `${tagged(weather)}\n${tagged(add)}`,
    content: '',
    calls: [weather, add],
  },
  {
    title: 'text around',
    format: hermes,
    text: `Well.\n\n${tagged(weather)}\nDone. `,
    content: 'Well.\n\n\nDone.',
    calls: [weather],
  },
  {
    title: 'white space around',
    format: hermes,
    text: `\n\n${tagged(weather)}\n`,
    content: '',
    calls: [weather],
  },
  {
    title: 'text only',
    format: hermes,
    text: '\n a < b </tool_cal and <tool_call \n',
    content: '\n a < b </tool_cal and <tool_call \n',
    calls: [],
  },
  { title: 'a stray end tag', format: hermes, text: 'a</tool_call>b', content: 'a</tool_call>b', calls: [] },
  {
    title: 'a stray hidden end tag',
    format: hermes,
    text: 'a</tool_call>b',
    content: 'ab',
    calls: [],
    hidden: ['</tool_call>'],
  },
  {
    title: 'arguments first, other keys',
    format: hermes,
    text: '<tool_call>{"id": [1,\n 2], "arguments": {"a":1} , "name":"add", "x": 1.5e3}</tool_call>',
    content: '',
    calls: [{ name: 'add', arguments: '{"a":1}' }],
  },
  {
    title: 'arguments as text',
    format: hermes,
    text: '<tool_call>{"name":"add","arguments":"{\\"a\\":1}"}</tool_call>',
    content: '',
    calls: [{ name: 'add', arguments: '{"a":1}' }],
  },
  {
    title: 'no arguments',
    format: hermes,
    text: '<tool_call>{"name":"add"}</tool_call><tool_call>{"name":"add", "arguments": null}</tool_call>',
    content: '',
    calls: [
      { name: 'add', arguments: '{}' },
      { name: 'add', arguments: '{}' },
    ],
  },
  {
    title: 'an unknown tool',
    format: hermes,
    text: '<tool_call>{"name":"sub", "arguments": {}}</tool_call>',
    content: '',
    calls: [{ name: 'sub', arguments: '{}' }],
  },
  {
    title: 'no JSON',
    format: hermes,
    text: 'So <tool_call>add(1)</tool_call> it is',
    content: 'So <tool_call>add(1)</tool_call> it is',
    calls: [],
  },
  {
    title: 'no name',
    format: hermes,
    text: '<tool_call>{"arguments": {"a":1}}</tool_call>',
    content: '<tool_call>{"arguments": {"a":1}}</tool_call>',
    calls: [],
  },
  {
    title: 'a list as arguments',
    format: hermes,
    text: '<tool_call>{"name":"add","arguments":[1]}</tool_call>',
    content: '<tool_call>{"name":"add","arguments":[1]}</tool_call>',
    calls: [],
  },
  {
    title: 'a broken call before a good one',
    format: hermes,
    text: `<tool_call>{"name: 1}\n</tool_call>${tagged(weather)}`,
    content: '<tool_call>{"name: 1}\n</tool_call>',
    calls: [weather],
  },
  {
    title: 'a brace too few',
    format: hermes,
    text: '<tool_call>{"name":"add","arguments":{"a":1}\n</tool_call>\n' + tagged(weather),
    content: '',
    calls: [{ name: 'add', arguments: '{"a":1}' }, weather],
  },
  {
    title: 'braces cut off by the tag',
    format: hermes,
    text: `<tool_call>{"name":"add","arguments":{"a":1\n</tool_call>${tagged(weather)}`,
    content: '',
    calls: [{ name: 'add', arguments: '{"a":1\n' }, weather],
  },
  {
    title: 'no end tag',
    format: hermes,
    text: '<tool_call>{"name":"add","arguments":{}} and so',
    content: 'and so',
    calls: [{ name: 'add', arguments: '{}' }],
  },
  {
    title: 'the end in the arguments',
    format: hermes,
    text: '<tool_call>{"name":"add","arguments":{"a": "x',
    content: '',
    calls: [{ name: 'add', arguments: '{"a": "x' }],
  },
  {
    title: 'the end in the name',
    format: hermes,
    text: 'Hm\n<tool_call>{"name":"ad',
    content: 'Hm\n<tool_call>{"name":"ad',
    calls: [],
  },
  {
    title: 'the end in the name, hidden',
    format: hermes,
    text: 'Hm\n<tool_call>{"name":"ad',
    content: 'Hm\n{"name":"ad',
    calls: [],
    hidden: ['<tool_call>'],
  },

  { title: 'one call', format: llama3Json, text: plain(weather), content: '', calls: [weather] },
  {
    title: 'two calls',
    format: llama3Json,
    text: `${plain(weather)}; ${plain(add)}\n`,
    content: '',
    calls: [weather, add],
  },
  {
    title: 'a marker',
    format: llama3Json,
    text: `<|python_tag|>${plain(weather)};${plain(add)}`,
    content: '',
    calls: [weather, add],
    hidden: ['<|python_tag|>'],
  },
  {
    title: 'text before the marker',
    format: llama3Json,
    text: `Let me see. <|python_tag|>${plain(weather)}`,
    content: 'Let me see.',
    calls: [weather],
  },
  {
    title: 'a type',
    format: llama3Json,
    text: '\n{"type": "function", "name": "add", "parameters": {"a": 1}}',
    content: '',
    calls: [{ name: 'add', arguments: '{"a": 1}' }],
  },
  {
    title: 'an answer in JSON',
    format: llama3Json,
    text: ' {"name": "Ada", "parameters": {}}; x',
    content: ' {"name": "Ada", "parameters": {}}; x',
    calls: [],
  },
  {
    title: 'an answer in JSON, cut off',
    format: llama3Json,
    text: '{"answer": {"a"',
    content: '{"answer": {"a"',
    calls: [],
  },
  {
    title: 'JSON within text',
    format: llama3Json,
    text: `So: ${plain(weather)}`,
    content: `So: ${plain(weather)}`,
    calls: [],
  },
  {
    title: 'code',
    format: llama3Json,
    text: '<|python_tag|>search.call(query="x")',
    content: 'search.call(query="x")',
    calls: [],
    hidden: ['<|python_tag|>'],
  },
  {
    title: 'code, the marker being text',
    format: llama3Json,
    text: 'Ok <|python_tag|>search()',
    content: 'Ok <|python_tag|>search()',
    calls: [],
  },
  {
    title: 'text after a call',
    format: llama3Json,
    text: `${plain(weather)} is it`,
    content: 'is it',
    calls: [weather],
  },
  {
    title: 'no call after a separator',
    format: llama3Json,
    text: `${plain(weather)}; {"x": 1}`,
    content: '; {"x": 1}',
    calls: [weather],
  },
  {
    title: 'separators alone',
    format: llama3Json,
    text: `${plain(weather)}; ;`,
    content: '; ;',
    calls: [weather],
  },

  {
    title: 'one call',
    format: mistral,
    text: `[TOOL_CALLS] [${listed(weather)}]`,
    content: '',
    calls: [weather],
  },
  {
    title: 'two calls',
    format: mistral,
    text: `[TOOL_CALLS][${listed(weather)}, ${listed(add)} ]`,
    content: '',
    calls: [weather, add],
    hidden: ['[TOOL_CALLS]'],
  },
  {
    title: 'text around',
    format: mistral,
    text: `See [1]: [TOOL_CALLS] [${listed(weather)}] So.`,
    content: 'See [1]:  So.',
    calls: [weather],
  },
  {
    title: 'no call in the list',
    format: mistral,
    text: '[TOOL_CALLS] [1, 2]',
    content: '[TOOL_CALLS] [1, 2]',
    calls: [],
  },
  {
    title: 'no call in the list, hidden',
    format: mistral,
    text: '[TOOL_CALLS] [{"a": 1}, 2]',
    content: ' [{"a": 1}, 2]',
    calls: [],
    hidden: ['[TOOL_CALLS]'],
  },
  { title: 'an empty list', format: mistral, text: '[TOOL_CALLS] []', content: '[TOOL_CALLS] []', calls: [] },
  {
    title: 'no end of the list',
    format: mistral,
    text: `[TOOL_CALLS] [${listed(add)}`,
    content: '',
    calls: [add],
  },
  {
    title: 'a second entry that is none',
    format: mistral,
    text: `[TOOL_CALLS] [${listed(add)}, x]`,
    content: ', x]',
    calls: [add],
  },
  {
    title: 'the marker in a string',
    format: mistral,
    text: '[TOOL_CALLS] [{"name": "add", "arguments": {"a": "[TOOL_CALLS] [ARGS]"}}]',
    content: '',
    calls: [{ name: 'add', arguments: '{"a": "[TOOL_CALLS] [ARGS]"}' }],
  },
  {
    title: 'names',
    format: mistralArgs,
    text: `[TOOL_CALLS]get_weather[ARGS]${weather.arguments}[TOOL_CALLS] add [ARGS] ${add.arguments}`,
    content: '',
    calls: [weather, add],
  },
  {
    title: 'names with ids',
    format: mistralArgs,
    text: `[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]${weather.arguments}`,
    content: '',
    calls: [weather],
  },
  {
    title: 'names without a marker',
    format: mistralArgs,
    text: `Hi [TOOL_CALLS]get_weather${weather.arguments}`,
    content: 'Hi',
    calls: [weather],
  },
  {
    title: 'words',
    format: mistralArgs,
    text: '[TOOL_CALLS]so many words {"a": 1}',
    content: '[TOOL_CALLS]so many words {"a": 1}',
    calls: [],
  },
  {
    title: 'a name alone',
    format: mistralArgs,
    text: '[TOOL_CALLS]add[ARGS]',
    content: '[TOOL_CALLS]add[ARGS]',
    calls: [],
  },
  {
    title: 'stray markers',
    format: mistralArgs,
    text: '[ARGS] a [TOOL_CALLS][ARGS]{}',
    content: ' a {}',
    calls: [],
    hidden: ['[TOOL_CALLS]', '[ARGS]', '[CALL_ID]'],
  },
];

describe.each(EXAMPLES)('$format.name: $title', ({ format, text, content, calls, hidden = [] }) => {
  it('is read whole', () => {
    expect(read(format, [text], hidden)).toEqual({ content, calls });
  });

  it('is read the same however it is cut', () => {
    for (let at = 1; at < text.length; at++) {
      expect(read(format, [text.slice(0, at), text.slice(at)], hidden), `at ${at}`).toEqual({
        content,
        calls,
      });
    }
    expect(read(format, Array.from(text), hidden)).toEqual({ content, calls });
  });
});

describe('any text', () => {
  const FRAGMENTS = [
    ...[
      '<tool_call>',
      '</tool_call>',
      '[TOOL_CALLS]',
      '[ARGS]',
      '[CALL_ID]',
      '<|python_tag|>',
      '{"name": "add"',
      '"parameters":',
    ],
    ...[
      '{',
      '}',
      '[',
      ']',
      ',',
      ';',
      '"',
      '\\',
      ':',
      ' ',
      '\n',
      'add',
      '"name"',
      '"arguments"',
      '{"a": 1}',
      'null',
      '<',
      'x',
      '1',
    ],
    ...[tagged(weather), listed(add)],
  ];
  const cutText = fc
    .array(fc.constantFrom(...FRAGMENTS), { maxLength: 14 })
    .map((fragments) => fragments.join(''))
    .chain((text) => fc.tuple(fc.constant(text), fc.array(fc.nat(text.length), { maxLength: 6 })));

  it.each(TOOL_CALL_FORMATS)(
    'in $name reads the same however it is cut, and loses nothing without a call',
    (format) => {
      fc.assert(
        fc.property(cutText, ([text, cuts]) => {
          const ends = [0, ...cuts.sort((a, b) => a - b), text.length];
          const pieces = ends.slice(1).map((end, i) => text.slice(ends[i], end));
          const whole = read(format, [text]);
          expect(read(format, pieces)).toEqual(whole);
          if (whole.calls.length === 0) expect(whole.content).toBe(text);
          const markers = format.markers;
          const { content } = read(format, pieces, markers);
          for (const marker of markers) expect(content).not.toContain(marker);
        }),
        { numRuns: 400 },
      );
    },
  );

  it('is told of before it is whole', () => {
    const parser = hermes.createParser({ names: NAMES, hidden: new Set() });
    expect(parser.push('<tool_call>{"name": "add", "arguments": {"a"')).toEqual([
      { type: 'call', index: 0, name: 'add' },
      { type: 'arguments', index: 0, text: '{"a"' },
    ]);
    expect(parser.push(': 1')).toEqual([{ type: 'arguments', index: 0, text: ': 1' }]);
  });
});

describe('the format of a chat template', () => {
  const path = join(import.meta.dirname, '../fixtures/chat/templates.json');
  const templates = JSON.parse(readFileSync(path, 'utf8')) as Record<string, { chat_template: string }>;

  it.each([
    ['qwen3', 'hermes'],
    ['llama3', 'llama3-json'],
    ['chatml', 'hermes'],
    ['mistral-inst', 'hermes'],
  ])('of %s is %s', (name, format) => {
    expect(toolCallFormat(templates[name]!.chat_template).name).toBe(format);
  });

  it.each([
    ['{{ "[TOOL_CALLS] [" }}', 'mistral'],
    ['{{ "[TOOL_CALLS]" + name + "[ARGS]" }}', 'mistral-args'],
    ['<tool_call>\n<function=x>', 'hermes'],
  ])('%s is %s', (source, format) => {
    expect(toolCallFormat(source).name).toBe(format);
  });

  it('gives ids their shape', () => {
    expect(hermes.newCallId()).toMatch(/^call_[A-Za-z0-9]{24}$/);
    expect(mistral.newCallId()).toMatch(/^[A-Za-z0-9]{9}$/);
    expect(hermes.newCallId()).not.toBe(hermes.newCallId());
  });
});
