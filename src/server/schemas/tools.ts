/** Tools that a request offers the model, and which of them it is to call. */
import { z } from 'zod';

/** As OpenAI. */
export const MAX_TOOLS = 128;

const functionName = z
  .string()
  .regex(/^[A-Za-z0-9_-]{1,64}$/, 'expected 1 to 64 letters, digits, "_" and "-"');

/** A JSON schema; what the grammar cannot enforce is refused where it has to. */
const parameters = z.record(z.string(), z.unknown());

export const functionFields = {
  name: functionName,
  description: z.string().nullish(),
  parameters: parameters.nullish(),
  strict: z.boolean().nullish(),
};

const functionTool = z.object({ type: z.literal('function'), function: z.object(functionFields) });

const namedFunction = z.object({ type: z.literal('function'), function: z.object({ name: z.string() }) });

const allowedTools = z.object({
  type: z.literal('allowed_tools'),
  allowed_tools: z.object({
    mode: z.enum(['auto', 'required']),
    tools: z.array(namedFunction).min(1).max(MAX_TOOLS),
  }),
});

const toolChoice = z.union(
  [z.enum(['none', 'auto', 'required']), z.discriminatedUnion('type', [namedFunction, allowedTools])],
  {
    error:
      'expected "none", "auto", "required", {"type":"function","function":{"name":"..."}} or {"type":"allowed_tools",...}',
  },
);

export const toolFields = {
  tools: z.array(functionTool).max(MAX_TOOLS).nullish(),
  tool_choice: toolChoice.nullish(),
  parallel_tool_calls: z.boolean().nullish(),
};

export type FunctionTool = z.infer<typeof functionTool>;
export type ToolChoice = z.infer<typeof toolChoice>;
export type ToolFields = z.infer<z.ZodObject<typeof toolFields>>;
