/** One schema a route: the fields that it reads. Others are accepted and named in a reply header. */
import { z } from 'zod';
import { chatMessages } from './chat-messages.ts';
import { modelField, refusedFields, refusedTools, samplingFields } from './fields.ts';
import { promptField, tokenList } from './prompts.ts';
import { responseFormat } from './response-format.ts';
import { toolFields } from './tools.ts';

export const chatCompletionBody = z.object({
  ...samplingFields,
  ...refusedFields,
  ...toolFields,
  messages: chatMessages,
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
  max_tokens: z.int().min(1).nullish(),
  max_completion_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  response_format: responseFormat.nullish(),
});

export type ChatCompletionBody = z.infer<typeof chatCompletionBody>;

export const completionBody = z.object({
  ...samplingFields,
  ...refusedFields,
  ...refusedTools,
  prompt: promptField,
  max_tokens: z.int().min(0).nullish(),
  logprobs: z.int().min(0).max(5).nullish(),
  echo: z.boolean().nullish(),
  response_format: responseFormat.nullish(),
});

/** One of `prompt` and `messages`, the latter perhaps with what shapes a chat's prompt; the route checks that. */
export const tokenizeBody = z.object({
  model: modelField.nullish(),
  prompt: z.string().nullish(),
  messages: chatMessages.nullish(),
  tools: toolFields.tools,
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
});

export const detokenizeBody = z.object({ model: modelField.nullish(), tokens: tokenList });
