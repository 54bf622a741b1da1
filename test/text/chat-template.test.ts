import { describe, expect, it } from 'vitest';
import { ChatTemplate } from '../../src/text/chat-template.ts';
import { makeModelDir, readFixture } from './models.ts';
import type { ChatMessage } from '../../src/text/chat-template.ts';

interface Case {
  template: string;
  messages_name: string;
  messages: ChatMessage[];
  tools: unknown[] | null;
  add_generation_prompt: boolean;
  kwargs: Record<string, unknown>;
  rendered?: string;
  error?: string;
}

const sources = readFixture('chat/templates.json') as Record<
  string,
  { chat_template: string; bos_token: string }
>;
const compiled = new Map(
  Object.entries(sources).map(([name, config]) => [
    name,
    ChatTemplate.load(makeModelDir({ 'tokenizer_config.json': config })),
  ]),
);
const hello: ChatMessage[] = [{ role: 'user', content: 'Hello' }];

describe('rendering', () => {
  const cases = readFixture('chat/cases.json') as Case[];
  it.each(cases.map((c, i) => [i, c.template, c.messages_name, c] as const))(
    'case %i: %s, %s',
    (_, name, __, expected) => {
      const render = () =>
        compiled.get(name)?.render(expected.messages, {
          tools: expected.tools,
          addGenerationPrompt: expected.add_generation_prompt,
          kwargs: expected.kwargs,
        });
      if (expected.error === undefined) expect(render()).toBe(expected.rendered);
      else
        expect(render).toThrow(expect.objectContaining({ errorCode: 'invalid_request', param: 'messages' }));
    },
  );

  it('tells the client why a template refuses', () => {
    const render = () => compiled.get('gemma')?.render([{ role: 'system', content: 'x' }, ...hello]);
    expect(render).toThrow('the chat template refused the messages: System role not supported');
  });
});

function renderText(source: string, text: unknown): string {
  return new ChatTemplate({ default: source }, {}).render([], { kwargs: { text } });
}

describe('text methods', () => {
  // Expected: CPython 3 and Jinja2.
  it.each([
    ["{{ text.strip('\\n') }}", '\n  a \n\n', '  a '],
    ["{{ text.lstrip('\\n') }}|", '\n\n  a\n', '  a\n|'],
    ["{{ text.rstrip('ab') }}", 'xaabba', 'x'],
    ['{{ text.strip() }}', ' \u00a0\u2003a\u0085\x1c', 'a'],
    ['{{ text.strip() }}', '\ufeffa\ufeff', '\ufeffa\ufeff'],
    ['{{ text | trim }}', '\n a \t', 'a'],
    ["{{ text | trim('x') }}", 'xx a x', ' a '],
    ['{{ (text | trim).upper() }}', ' é ', 'É'],
    ["{{ text.split('x')[0].rstrip('\\n').lstrip() }}", ' a \n\nxb', 'a '],
    ["{%- for c in text.strip('ab').split('-') %}{{ c.strip('1') }},{% endfor %}", 'a11-1b2-b', ',b2,,'],
    ["{% macro f(t) %}{{ t.strip('-') }}{% endmacro %}{{ f(text) }}", '-x-', 'x'],
    ['{{ missing | trim }}|', '', '|'],
    ["{{ '😀a😀'.strip('😀') }}", '', 'a'],
  ])('%s of %j', (source, text, expected) => {
    expect(renderText(source, text)).toBe(expected);
  });

  it('refuse what is no text', () => {
    expect(() => renderText("{{ text.strip('x') }}", null)).toThrow('expected a text to strip');
    expect(() => renderText('{{ text.strip(1) }}', 'a')).toThrow('expected characters to strip');
  });
});

describe('where a template comes from', () => {
  const config = { bos_token: { content: '<s>' }, chat_template: 'config {{ bos_token }}' };
  const load = (files: Record<string, unknown>) => ChatTemplate.load(makeModelDir(files)).render(hello);

  it('is a file before the configuration', () => {
    expect(load({ 'tokenizer_config.json': config })).toBe('config <s>');
    expect(load({ 'tokenizer_config.json': config, 'chat_template.json': { chat_template: 'json' } })).toBe(
      'json',
    );
    expect(load({ 'tokenizer_config.json': config, 'chat_template.jinja': 'jinja {{ bos_token }}' })).toBe(
      'jinja <s>',
    );
  });

  it('may be a list with a template for tools', () => {
    const templates = [
      { name: 'default', template: 'plain' },
      { name: 'tool_use', template: 'tools {{ tools | length }}' },
    ];
    const template = ChatTemplate.load(
      makeModelDir({ 'tokenizer_config.json': { chat_template: templates } }),
    );
    expect(template.render(hello)).toBe('plain');
    expect(template.render(hello, { tools: [{}, {}] })).toBe('tools 2');
  });

  it.each([
    [{}, 'without a chat template'],
    [{ 'tokenizer_config.json': { chat_template: '{% if %}' } }, 'cannot be compiled'],
  ])('may be nowhere: %j', (files, message) => {
    const template = ChatTemplate.load(makeModelDir(files));
    expect(template.available).toBe(false);
    const render = () => template.render(hello);
    expect(render).toThrow(expect.objectContaining({ errorCode: 'invalid_request', param: 'messages' }));
    expect(render).toThrow(message);
  });
});

describe('variables', () => {
  it.each(['messages', 'tools', 'add_generation_prompt', 'bos_token', '__strip'])(
    '%s cannot be set by a client',
    (name) => {
      const template = new ChatTemplate({ default: '' }, { bos_token: '<s>' });
      expect(() => template.render(hello, { kwargs: { [name]: 'x' } })).toThrow(
        expect.objectContaining({ errorCode: 'invalid_request', param: `chat_template_kwargs.${name}` }),
      );
    },
  );

  it('of the language cannot be replaced either', () => {
    const render = () => renderText('{{ text }}', 'x');
    expect(render()).toBe('x');
    expect(() =>
      new ChatTemplate({ default: '' }, {}).render(hello, { kwargs: { raise_exception: 1 } }),
    ).toThrow('raise_exception');
  });
});

describe('form of the content', () => {
  it.each([
    ['chatml', false, false],
    ['llama3', false, false],
    ['llava', true, true],
  ])('%s takes parts: %s, needs them: %s', (name, takesParts, needsParts) => {
    expect(compiled.get(name)).toMatchObject({ takesParts, needsParts });
  });

  it('may be both', () => {
    const source =
      '{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}';
    expect(new ChatTemplate({ default: source }, {})).toMatchObject({ takesParts: true, needsParts: false });
  });
});
