/** What the other routes reply. Descriptions for the OpenAPI document, which tests hold against real replies. */
import { z } from 'zod';
import { count } from './reply-parts.ts';

export const errorReply = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable().describe('path of the offending field, such as messages[0].role'),
    code: z.string().nullable(),
  }),
});

export const model = z.object({
  id: z.string(),
  object: z.literal('model'),
  created: count,
  owned_by: z.string(),
  context_length: count.describe('tokens, of prompt and completion together'),
  modalities: z.array(z.enum(['text', 'image'])),
  pruning: z
    .record(z.enum(['tokens', 'kv', 'visual', 'layers']), z.array(z.string()))
    .describe('names of the policies that it can run, by family'),
});

export const modelList = z.object({ object: z.literal('list'), data: z.array(model) });

const support = {
  supported: z.boolean(),
  reason: z.string().optional().describe('why it is not supported'),
};

export const policyList = z.object({
  object: z.literal('list'),
  data: z.array(
    z.object({
      name: z.string(),
      family: z.string(),
      summary: z.string(),
      paper: z.string().nullable(),
      needs: z.array(z.string()),
      ...support,
      options: z.looseObject({}).describe('JSON schema of its options'),
      examples: z.array(z.unknown()).describe("what one may write as the family's value"),
    }),
  ),
  presets: z.array(
    z.object({
      name: z.string(),
      summary: z.string(),
      pruning: z.looseObject({}),
      ...support,
    }),
  ),
});

export const tokenizeReply = z.object({ tokens: z.array(count), count });

export const detokenizeReply = z.object({ prompt: z.string() });

export const statusReply = z.object({ status: z.enum(['ok', 'ready']) });

export const openapiReply = z.looseObject({ openapi: z.string(), info: z.looseObject({}) });
