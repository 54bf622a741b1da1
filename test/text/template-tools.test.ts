import { describe, expect, it } from 'vitest';
import type { AppError } from '../../src/errors.ts';
import { ChatTemplate } from '../../src/text/chat-template.ts';
import type { ChatMessage } from '../../src/text/chat-template.ts';
import { toolPrompt } from '../../src/text/tool-calls/template-messages.ts';
import { readFixture } from './models.ts';

const SOURCES = readFixture('chat/templates.json') as Record<
  string,
  { chat_template: string; bos_token: string; eos_token: string }
>;

function template(name: string): ChatTemplate {
  const { chat_template: source, bos_token, eos_token } = SOURCES[name]!;
  return new ChatTemplate({ default: source }, { bos_token, eos_token });
}

const call = (name: string, args: string, id = 'abcdefghi') => ({
  id,
  type: 'function',
  function: { name, arguments: args },
});
const TOOL = { type: 'function', function: { name: 'add', parameters: { type: 'object' } } } as const;
const CONVERSATION: ChatMessage[] = [
  { role: 'user', content: '1+2?' },
  { role: 'assistant', content: null, tool_calls: [call('add', '{"a":1,"b":2}')] },
  { role: 'tool', tool_call_id: 'abcdefghi', content: '3' },
  { role: 'assistant', content: 'It is 3.' },
  { role: 'user', content: 'Sure?' },
];

function render(name: string, messages = CONVERSATION, tools: (typeof TOOL)[] | null = [TOOL]): string {
  const prompt = toolPrompt(messages, tools, template(name));
  return template(name).render(prompt.messages, { tools: prompt.tools });
}

describe('a template', () => {
  it.each([
    ['qwen3', { takesTools: true, takesSeveralCalls: true, takesSystem: true }],
    ['llama3', { takesTools: true, takesSeveralCalls: false, takesSystem: true }],
    ['chatml', { takesTools: false, takesSystem: true }],
    ['mistral-inst', { takesTools: false, takesSystem: true }],
    ['gemma', { takesTools: false, takesSystem: false }],
  ])('%s says what it has a place for', (name, expected) => {
    expect(template(name)).toMatchObject(expected);
  });
});

describe('tools in a prompt', () => {
  it('are left to a template that knows them', () => {
    expect(render('qwen3')).toContain(
      '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
    );
    expect(render('qwen3')).toContain(JSON.stringify(TOOL).replaceAll(/([:,])/g, '$1 '));
    expect(render('qwen3')).toContain('<tool_response>\n3\n</tool_response>');
    expect(render('llama3')).toContain('{"name": "add", "parameters": {"a": 1, "b": 2}}');
  });

  it.each(['chatml', 'mistral-inst', 'gemma'])('are told as text to %s', (name) => {
    const rendered = render(name);
    expect(rendered).toContain(JSON.stringify(TOOL));
    expect(rendered).toContain('<tool_call>\n{"name": "add", "arguments": {"a":1,"b":2}}\n</tool_call>');
    expect(rendered).toContain('<tool_response>\n3\n</tool_response>');
  });

  it('follow a system message that is there', () => {
    const messages = [{ role: 'system', content: 'Be brief.' }, ...CONVERSATION];
    expect(render('chatml', messages)).toContain('system\nBe brief.\n\nYou can call');
  });

  it('are not told of when there are none, but earlier calls are', () => {
    expect(render('chatml', CONVERSATION, null)).not.toContain('You can call');
    expect(render('chatml', CONVERSATION, null)).toContain('<tool_response>\n3');
  });

  it('keep several results in one message', () => {
    const messages = CONVERSATION.toSpliced(3, 0, { role: 'tool', tool_call_id: 'abcdefghi', content: '4' });
    expect(render('mistral-inst', messages)).toContain('\n3\n</tool_response>\n<tool_response>\n4\n');
  });

  it.each(['[1]', '{"a":', 'x', '"{}"', 'null'])('are refused with the arguments %s', (args) => {
    const messages = [{ role: 'assistant', tool_calls: [call('add', '{}'), call('add', args)] }];
    const param = 'messages[0].tool_calls[1].function.arguments';
    expect(() => toolPrompt(messages, null, template('qwen3'))).toThrow(
      expect.objectContaining({ param, errorCode: 'invalid_request' }) as AppError,
    );
  });

  it('may have empty arguments', () => {
    const messages = [...CONVERSATION.slice(0, 1), { role: 'assistant', tool_calls: [call('add', '')] }];
    expect(render('qwen3', messages)).toContain('"arguments": {}}');
    expect(render('chatml', messages)).toContain('"arguments": {}}');
  });
});
