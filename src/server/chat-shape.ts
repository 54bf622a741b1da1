/** What a chat completion's choices look like, whole and in chunks. */
import type { ChoicePart } from './choice-parts.ts';
import type { GeneratedToken } from './choice-text.ts';
import { chatLogprobs } from './logprobs.ts';
import type { TokenNames } from './logprobs.ts';
import type { ReplyShape } from './reply.ts';

interface ToolCallDelta {
  readonly index: number;
  readonly id?: string;
  readonly type?: 'function';
  readonly function: { readonly name?: string; arguments: string };
}

interface Delta {
  content?: string;
  reasoning_content?: string;
  tool_calls?: ToolCallDelta[];
}

export function chatShape(names: TokenNames, hasLogprobs: boolean): ReplyShape {
  const logprobs = (tokens: readonly GeneratedToken[]) =>
    hasLogprobs ? { content: chatLogprobs(names, tokens), refusal: null } : null;
  return {
    wholeObject: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    begin: ({ choice }) => ({
      index: choice,
      delta: { role: 'assistant', content: '' },
      logprobs: null,
      finish_reason: null,
    }),
    delta: ({ choice, parts, tokens }) => ({
      index: choice,
      delta: parts.length === 0 ? { content: '' } : joined(parts),
      logprobs: logprobs(tokens),
      finish_reason: null,
    }),
    finish: ({ choice, reason }) => ({ index: choice, delta: {}, logprobs: null, finish_reason: reason }),
    whole: (index, { parts, tokens, reason }) => ({
      index,
      message: message(joined(parts)),
      logprobs: logprobs(tokens),
      finish_reason: reason,
    }),
  };
}

/** What several parts add to a message; one entry a call. */
function joined(parts: readonly ChoicePart[]): Delta {
  const delta: Delta = {};
  for (const part of parts) {
    if (part.type === 'content') delta.content = (delta.content ?? '') + part.text;
    else if (part.type === 'reasoning') delta.reasoning_content = (delta.reasoning_content ?? '') + part.text;
    else addToCalls((delta.tool_calls ??= []), part);
  }
  return delta;
}

function addToCalls(calls: ToolCallDelta[], part: Extract<ChoicePart, { index: number }>): void {
  const { index } = part;
  if (part.type === 'call') {
    calls.push({ index, id: part.id, type: 'function', function: { name: part.name, arguments: '' } });
    return;
  }
  const open = calls.at(-1);
  if (open?.index === index) open.function.arguments += part.text;
  else calls.push({ index, function: { arguments: part.text } });
}

/** Nothing but calls or reasoning has content null; an empty reply has an empty one. */
function message({ content, reasoning_content: reasoning, tool_calls: calls }: Delta): object {
  const isOther = calls !== undefined || reasoning !== undefined;
  return {
    role: 'assistant',
    content: content ?? (isOther ? null : ''),
    refusal: null,
    ...(reasoning !== undefined && { reasoning_content: reasoning }),
    ...(calls !== undefined && {
      tool_calls: calls.map(({ id, type, function: called }) => ({ id, type, function: called })),
    }),
  };
}
