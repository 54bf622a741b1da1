/** What content must look like, as chats (`response_format`) and responses (`text.format`) say it. */
import { z } from 'zod';

const text = z.strictObject({ type: z.literal('text') });
const jsonObject = z.strictObject({ type: z.literal('json_object') });

/** The schema itself is read with its grammar. */
const definition = {
  name: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/, 'expected 1 to 64 of A-Z, a-z, 0-9, _ and -'),
  description: z.string().nullish(),
  schema: z.record(z.string(), z.unknown()),
  /** Whatever it says, the schema is enforced. */
  strict: z.boolean().nullish(),
};

const wrong = { error: 'expected a format with type "text", "json_object" or "json_schema"' };

export const responseFormat = z.discriminatedUnion(
  'type',
  [
    text,
    jsonObject,
    z.strictObject({ type: z.literal('json_schema'), json_schema: z.strictObject(definition) }),
  ],
  wrong,
);

export type ResponseFormat = z.infer<typeof responseFormat>;

export const textFormat = z.discriminatedUnion(
  'type',
  [text, jsonObject, z.strictObject({ type: z.literal('json_schema'), ...definition })],
  wrong,
);

export type TextFormat = z.infer<typeof textFormat>;
