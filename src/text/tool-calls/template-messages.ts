/** Shapes tools, calls and their results for a model's chat template. */
import { AppError } from '../../errors.ts';
import { describe } from '../../validation.ts';
import type { ChatMessage, ChatTemplate } from '../chat-template.ts';
import { callsOf } from './message-calls.ts';
import type { TemplateTool } from './message-calls.ts';
import { toolsAsText } from './tools-as-text.ts';

export interface ToolPrompt {
  readonly messages: ChatMessage[];
  readonly tools: readonly TemplateTool[] | null;
}

/**
 * Messages and tools as the template takes them; to one that has no place for tools they are told as text. Where
 * `tools` is null, no tools are told of, but earlier calls still are.
 * @throws AppError `invalid_request` (param `messages[i].tool_calls[j].function.arguments`) for arguments that are no
 * JSON object
 */
export function toolPrompt(
  messages: readonly ChatMessage[],
  tools: readonly TemplateTool[] | null,
  template: ChatTemplate,
): ToolPrompt {
  if (!template.takesTools) return { messages: toolsAsText(messages, tools, template), tools: null };
  return { messages: messages.map(withParsedArguments), tools };
}

/** Templates write arguments as JSON themselves, so they take objects. */
function withParsedArguments(message: ChatMessage, index: number): ChatMessage {
  const calls = callsOf(message);
  if (calls.length === 0) return message;
  const parsed = calls.map((call, i) => {
    const param = `messages[${index}].tool_calls[${i}].function.arguments`;
    return {
      ...call,
      function: { ...call.function, arguments: parseArguments(call.function.arguments, param) },
    };
  });
  return { ...message, content: message.content ?? '', tool_calls: parsed };
}

function parseArguments(text: string, param: string): object {
  let value: unknown = text;
  try {
    if (text.trim() === '') return {};
    value = JSON.parse(text);
  } catch {
    // Told below, as any other value that is no object.
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw new AppError('invalid_request', `${param}: expected a JSON object as text, got ${describe(value)}`, {
    param,
  });
}
