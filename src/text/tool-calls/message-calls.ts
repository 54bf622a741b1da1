/** Tools, and calls of them in messages, with OpenAI's keys. */
import type { ChatMessage } from '../chat-template.ts';

/** A call as it stands in a message. */
export interface MessageToolCall {
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; readonly arguments: string };
}

export interface TemplateTool {
  readonly type: 'function';
  readonly function: { readonly name: string; readonly [key: string]: unknown };
}

export function callsOf(message: ChatMessage): readonly MessageToolCall[] {
  return (message.tool_calls ?? []) as readonly MessageToolCall[];
}
