/** What `/v1/responses` replies: a response, or its events. */
import { z } from 'zod';
import { chatLogprob, count, nothing, totals } from './reply-parts.ts';

const itemStatus = z.enum(['in_progress', 'completed', 'incomplete']);
const outputItem = z.discriminatedUnion('type', [
  z.object({
    id: z.string(),
    type: z.literal('message'),
    status: itemStatus,
    role: z.literal('assistant'),
    content: z.array(
      z.object({
        type: z.literal('output_text'),
        text: z.string(),
        annotations: z.array(z.unknown()).max(0),
        logprobs: z.array(chatLogprob),
      }),
    ),
  }),
  z.object({
    id: z.string(),
    type: z.literal('reasoning'),
    status: itemStatus,
    summary: z.array(z.unknown()).max(0),
    content: z.array(z.object({ type: z.literal('reasoning_text'), text: z.string() })),
  }),
  z.object({
    id: z.string(),
    type: z.literal('function_call'),
    status: itemStatus,
    call_id: z.string(),
    name: z.string(),
    arguments: z.string(),
  }),
]);

export const response = z.object({
  id: z.string(),
  object: z.literal('response'),
  created_at: count,
  completed_at: count.nullable(),
  status: itemStatus,
  incomplete_details: z.object({ reason: z.string() }).nullable(),
  error: nothing,
  model: z.string(),
  output: z.array(outputItem),
  usage: z
    .object({
      input_tokens: count,
      input_tokens_details: z.object({ cached_tokens: count }),
      output_tokens: count,
      output_tokens_details: z.object({ reasoning_tokens: count }),
      total_tokens: count,
    })
    .nullable(),
  background: z.literal(false),
  instructions: z.string().nullable(),
  max_output_tokens: count.nullable(),
  max_tool_calls: nothing,
  metadata: z.record(z.string(), z.string()),
  parallel_tool_calls: z.boolean(),
  previous_response_id: z.string().nullable(),
  prompt_cache_key: nothing,
  reasoning: z.object({ effort: nothing, summary: nothing }),
  safety_identifier: nothing,
  service_tier: z.literal('default'),
  store: z.boolean(),
  temperature: z.number(),
  text: z.object({ format: z.looseObject({ type: z.string() }) }),
  tool_choice: z.unknown(),
  tools: z.array(z.unknown()),
  top_logprobs: count,
  top_p: z.number(),
  truncation: z.literal('disabled'),
  user: nothing,
  pruning: totals.pruning,
  timings: totals.timings.optional(),
});

export const responseEvent = z.looseObject({ type: z.string(), sequence_number: count });
