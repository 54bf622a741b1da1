/** Tools of the Responses API, whose objects are flat where those of chats have a `function` inside. */
import { z } from 'zod';
import { functionName } from './tools.ts';

/** As OpenAI. */
const MAX_TOOLS = 128;

const functionTool = z.object({
  type: z.literal('function'),
  name: functionName,
  description: z.string().nullish(),
  parameters: z.record(z.string(), z.unknown()).nullish(),
  strict: z.boolean().nullish(),
});

/** Tools that OpenAI runs itself: recognised so that the refusal can name them. */
const hostedTool = z.object({
  type: z.string().refine((type) => type !== 'function', 'expected the fields of a function'),
});

const namedFunction = z.object({ type: z.literal('function'), name: z.string() });

const allowedTools = z.object({
  type: z.literal('allowed_tools'),
  mode: z.enum(['auto', 'required']),
  tools: z.array(namedFunction).min(1).max(MAX_TOOLS),
});

export const responseToolFields = {
  tools: z
    .array(z.union([functionTool, hostedTool]))
    .max(MAX_TOOLS)
    .nullish(),
  tool_choice: z
    .union(
      [z.enum(['none', 'auto', 'required']), z.discriminatedUnion('type', [namedFunction, allowedTools])],
      {
        error:
          'expected "none", "auto", "required", {"type":"function","name":"..."} or {"type":"allowed_tools",...}',
      },
    )
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
};

export type ResponseToolFields = z.infer<z.ZodObject<typeof responseToolFields>>;
