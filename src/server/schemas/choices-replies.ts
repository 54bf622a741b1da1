/** Replies that consist of choices: chat completions, completions, and their chunks. */
import { z } from 'zod';
import { chatLogprob, count, milliseconds, nothing, totals } from './reply-parts.ts';

const usage = z.object({
  prompt_tokens: count,
  completion_tokens: count,
  total_tokens: count,
  prompt_tokens_details: z.object({ cached_tokens: count }),
});

const finishReason = z.enum(['stop', 'length', 'tool_calls']);

const chatLogprobs = z.object({ content: z.array(chatLogprob), refusal: nothing });

const legacyLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(count),
});

const toolCall = z.object({
  id: z.string(),
  type: z.literal('function'),
  function: z.object({ name: z.string(), arguments: z.string() }),
});

const envelope = { id: z.string(), created: count.describe('Unix time in seconds'), model: z.string() };

export const chatCompletion = z.object({
  ...envelope,
  object: z.literal('chat.completion'),
  choices: z.array(
    z.object({
      index: count,
      message: z.object({
        role: z.literal('assistant'),
        content: z.string().nullable(),
        refusal: nothing,
        reasoning_content: z.string().optional(),
        tool_calls: z.array(toolCall).optional(),
      }),
      logprobs: chatLogprobs.nullable(),
      finish_reason: finishReason,
    }),
  ),
  usage,
  ...totals,
});

const toolCallDelta = z.object({
  index: count,
  id: z.string().optional(),
  type: z.literal('function').optional(),
  function: z.object({ name: z.string().optional(), arguments: z.string().optional() }),
});

/** Of a stream's chunks: the totals stand on the usage chunk, or on the last one. */
const lastChunk = {
  usage: usage.nullish(),
  prompt_progress: z
    .object({ total: count, cache: count, processed: count, time_ms: milliseconds })
    .optional(),
  pruning: totals.pruning,
  timings: totals.timings.optional(),
};

export const chatCompletionChunk = z.object({
  ...envelope,
  object: z.literal('chat.completion.chunk'),
  choices: z.array(
    z.object({
      index: count,
      delta: z.object({
        role: z.literal('assistant').optional(),
        content: z.string().nullish(),
        reasoning_content: z.string().optional(),
        tool_calls: z.array(toolCallDelta).optional(),
      }),
      logprobs: chatLogprobs.nullable(),
      finish_reason: finishReason.nullable(),
    }),
  ),
  ...lastChunk,
});

const completionChoice = z.object({
  index: count,
  text: z.string(),
  logprobs: legacyLogprobs.nullable(),
  finish_reason: finishReason,
});

export const completion = z.object({
  ...envelope,
  object: z.literal('text_completion'),
  choices: z.array(completionChoice),
  usage,
  ...totals,
});

export const completionChunk = z.object({
  ...envelope,
  object: z.literal('text_completion'),
  choices: z.array(completionChoice.extend({ finish_reason: finishReason.nullable() })),
  ...lastChunk,
});
