/** Tells a model of tools, calls and results in plain text, for chat templates that have no place for them. */
import type { ChatMessage, ChatTemplate } from '../chat-template.ts';
import { callsOf } from './message-calls.ts';
import type { TemplateTool } from './message-calls.ts';

/** Calls look as in the format `hermes`, which such models are asked to use. */
export function toolsAsText(
  messages: readonly ChatMessage[],
  tools: readonly TemplateTool[] | null,
  template: ChatTemplate,
): ChatMessage[] {
  const told: ChatMessage[] = [];
  let results: string[] = [];
  const tellResults = () => {
    if (results.length > 0) told.push({ role: 'user', content: results.join('\n') });
    results = [];
  };
  for (const message of messages) {
    if (message.role === 'tool') {
      results.push(`<tool_response>\n${plainText(message)}\n</tool_response>`);
      continue;
    }
    tellResults();
    told.push(callsOf(message).length > 0 ? callsAsText(message) : message);
  }
  tellResults();
  return tools === null || tools.length === 0 ? told : introduce(told, describeTools(tools), template);
}

function callsAsText(message: ChatMessage): ChatMessage {
  const calls = callsOf(message).map(
    ({ function: { name, arguments: args } }) =>
      `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": ${args.trim() || '{}'}}\n</tool_call>`,
  );
  const text = plainText(message);
  return { role: message.role, content: [...(text === '' ? [] : [text]), ...calls].join('\n') };
}

/** In the system message, or before the first message if the template knows no such role. */
function introduce(
  messages: readonly ChatMessage[],
  introduction: string,
  { takesSystem }: ChatTemplate,
): ChatMessage[] {
  const [first, ...rest] = messages;
  const isAmended = first !== undefined && (first.role === 'system' || !takesSystem);
  if (!isAmended) return [{ role: 'system', content: introduction }, ...messages];
  const texts = first.role === 'system' ? [plainText(first), introduction] : [introduction, plainText(first)];
  return [{ ...first, content: texts.join('\n\n') }, ...rest];
}

function describeTools(tools: readonly TemplateTool[]): string {
  const lines = tools.map((tool) => JSON.stringify(tool));
  return [
    'You can call these functions, each described by a JSON schema:',
    ...lines,
    'To call one, write its name and its arguments as a JSON object between these tags, once for each call:',
    '<tool_call>',
    '{"name": "the function", "arguments": {"argument": "value"}}',
    '</tool_call>',
  ].join('\n');
}

function plainText({ content }: ChatMessage): string {
  if (typeof content === 'string') return content;
  return (content ?? []).map(({ text }) => (typeof text === 'string' ? text : '')).join('\n');
}
