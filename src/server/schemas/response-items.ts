/** Items of the Responses API: what `input` is made of, and what is kept of earlier responses. */
import { z } from 'zod';

const itemId = z.string().min(1).max(256);

/** Ids that clients repeat to us, and states that mean nothing coming from them. */
const repeated = { id: itemId.nullish(), status: z.string().nullish() };

const textPart = z.object({ type: z.literal(['input_text', 'output_text']), text: z.string() });
const refusalPart = z.object({ type: z.literal('refusal'), refusal: z.string() });
const imagePart = z.object({
  type: z.literal('input_image'),
  image_url: z.string().nullish(),
  file_id: z.string().nullish(),
  detail: z.string().nullish(),
});
/** Parts that OpenAI defines and that nothing here can read: known so that the refusal can name them. */
const otherPart = z.object({ type: z.literal(['input_file', 'input_audio']) });

const part = z.discriminatedUnion('type', [textPart, refusalPart, imagePart, otherPart], {
  error: (issue) =>
    typeof issue.input === 'object'
      ? 'expected one of "input_text", "output_text", "refusal", "input_image"'
      : 'expected a content part with a type',
});

const content = z.union([z.string(), z.array(part).min(1)], {
  error: (issue) =>
    Array.isArray(issue.input)
      ? 'expected a list of content parts, each {"type":"input_text","text":"..."}'
      : 'expected a string or a list of content parts',
});

const message = z.object({
  ...repeated,
  type: z.literal('message').optional(),
  role: z.enum(['system', 'developer', 'user', 'assistant']),
  content,
});

const functionCall = z.object({
  ...repeated,
  type: z.literal('function_call'),
  call_id: itemId,
  name: z.string().min(1),
  arguments: z.string(),
});

const functionCallOutput = z.object({
  ...repeated,
  type: z.literal('function_call_output'),
  call_id: itemId,
  output: content,
});

const reasoning = z.object({
  ...repeated,
  type: z.literal('reasoning'),
  summary: z.array(z.object({ text: z.string() })).nullish(),
  content: z.array(z.object({ text: z.string() })).nullish(),
  encrypted_content: z.string().nullish(),
});

/** Stands for an item of an earlier response. */
const itemReference = z.object({ type: z.literal('item_reference'), id: itemId });

const inputItem = z.discriminatedUnion(
  'type',
  [message, functionCall, functionCallOutput, reasoning, itemReference],
  {
    error: (issue) =>
      typeof issue.input === 'object'
        ? 'expected one of "message", "function_call", "function_call_output", "reasoning", "item_reference"'
        : 'expected an item with a type',
  },
);

export const responseInput = z.union([z.string(), z.array(inputItem)], {
  error: 'expected a string or a list of items',
});

export type InputPart = z.infer<typeof part>;
export type InputItem = z.infer<typeof inputItem>;
/** An item with content of its own. */
export type ConversationItem = Exclude<InputItem, { type: 'item_reference' }>;
