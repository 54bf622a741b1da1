/** A conversation's prompt, and what follows from it for the reply: how it is read, and which grammar holds it. */
import type { StructuralTagFormat } from '@mlc-ai/web-xgrammar';
import type { ChatMessage } from '../text/chat-template.ts';
import { encodeChat } from '../text/encode-chat.ts';
import { reasoningStage } from '../text/reasoning.ts';
import { toolPrompt } from '../text/tool-calls/template-messages.ts';
import { replyFormat } from './choice-parts.ts';
import type { ReplyFormat } from './choice-parts.ts';
import { checkTextLength, encodingLimit } from './job.ts';
import type { LoadedModel } from './model.ts';
import { replyGrammar } from './reply-grammar.ts';
import { constraintOf } from './structured-output.ts';
import type { ToolUse } from './tools.ts';

export interface Conversation {
  readonly messages: readonly ChatMessage[];
  readonly tools: ToolUse;
  /** What content must look like; null = anything will do. */
  readonly content: StructuralTagFormat | null;
  /** More variables of the template. */
  readonly kwargs: Readonly<Record<string, unknown>> | null | undefined;
}

export interface ChatPrompt {
  readonly ids: number[];
  readonly replyFormat: ReplyFormat;
  /** Of the job. */
  readonly constraint: string | null;
}

/** @throws AppError `invalid_request`, `context_length_exceeded` with param `messages` or below */
export function chatPrompt(model: LoadedModel, conversation: Conversation): ChatPrompt {
  const { tokenizer, template } = model;
  const { tools: use, content, kwargs } = conversation;
  const { messages, tools } = toolPrompt(conversation.messages, use.told, template);
  let text = '';
  const ids = encodeChat(tokenizer, template, messages, {
    tools,
    kwargs: kwargs ?? {},
    maxIds: encodingLimit(model),
    onRendered: (rendered) => {
      text = rendered;
      checkTextLength(rendered, model, 'messages');
    },
  });
  const reasoning = reasoningStage(template.source, text);
  return {
    ids,
    replyFormat: replyFormat(tokenizer, reasoning, use.reading),
    constraint: constraintOf(replyGrammar(use, content, reasoning)),
  };
}
