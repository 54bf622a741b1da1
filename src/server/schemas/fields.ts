/** Request fields that several routes share: their types, ranges and what "off" looks like. */
import { z } from 'zod';
import { pruningField } from './pruning.ts';

/** Clients often send null for what they leave out: an absent field and null mean the same. */
const optional = <T extends z.ZodType>(schema: T) => schema.nullish();

const tokenId = z.int().min(0);

/** A model's name; which names there are is known with the models. */
export const modelField = z.string();

/** Refused by name where requests are checked; the OpenAPI document shows what passes. */
export const onlyOff = (...values: unknown[]) =>
  z
    .unknown()
    .optional()
    .meta({ enum: [...values, null] });

/** Counts and ids that any generation route takes, with OpenAI's ranges, then vLLM's where OpenAI has none. */
export const samplingFields = {
  model: optional(modelField),
  stream: optional(z.boolean()),
  stream_options: optional(z.object({ include_usage: optional(z.boolean()) })),
  n: optional(z.int().min(1).max(128)),
  temperature: optional(z.number().min(0).max(2)),
  top_p: optional(z.number().min(0).max(1)),
  top_k: optional(z.int().min(-1)),
  min_p: optional(z.number().min(0).max(1)),
  // A factor on logits: what is nearer to 0 than any use of it would make them infinite.
  repetition_penalty: optional(z.number().min(0.01).max(100)),
  presence_penalty: optional(z.number().min(-2).max(2)),
  frequency_penalty: optional(z.number().min(-2).max(2)),
  logit_bias: optional(
    z.record(z.string().regex(/^\d{1,9}$/, 'expected token ids as keys'), z.number().min(-100).max(100)),
  ),
  seed: optional(z.int()),
  stop: optional(
    z.union([z.string().min(1), z.array(z.string().min(1)).max(4)], {
      error: 'expected a non-empty string or a list of at most 4 of them',
    }),
  ),
  stop_token_ids: optional(z.array(tokenId).max(1024)),
  min_tokens: optional(z.int().min(0)),
  ignore_eos: optional(z.boolean()),
  priority: optional(z.int()),
  cache_prompt: optional(z.boolean()),
  return_progress: optional(z.boolean()),
  return_tokens_as_token_ids: optional(z.boolean()),
  max_time_ms: optional(
    z
      .int()
      .min(1)
      .max(2 ** 31 - 1),
  ),
  pruning: pruningField.optional(),
  speculative: onlyOff(false),
};

export type SamplingFields = z.infer<z.ZodObject<typeof samplingFields>>;

/** Fields that routes recognise only to refuse, or to accept at their "off" value. */
export const refusedFields = {
  best_of: onlyOff(1),
  audio: onlyOff(),
  modalities: onlyOff(['text']),
  functions: onlyOff(),
  function_call: onlyOff(),
  background: onlyOff(false),
  suffix: onlyOff(''),
};

export type RefusedFields = z.infer<z.ZodObject<typeof refusedFields>>;

/** The same, of routes that know no tools. */
export const refusedTools = {
  tools: z.unknown().optional(),
  tool_choice: z.unknown().optional(),
};

export type RefusedTools = z.infer<z.ZodObject<typeof refusedTools>>;
