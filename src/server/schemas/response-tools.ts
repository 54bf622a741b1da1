/** Tools of the Responses API, whose objects are flat where those of chats have a `function` inside. */
import { z } from 'zod';
import { MAX_TOOLS, functionFields } from './tools.ts';

const functionTool = z.object({ type: z.literal('function'), ...functionFields });

/** Tools of OpenAI that are no functions: known so that the refusal can name them. */
const otherTool = z.object({
  type: z.enum([
    'apply_patch',
    'code_interpreter',
    'computer',
    'computer_use_preview',
    'custom',
    'file_search',
    'image_generation',
    'local_shell',
    'mcp',
    'namespace',
    'programmatic_tool_calling',
    'shell',
    'tool_search',
    'web_search',
    'web_search_2025_08_26',
    'web_search_preview',
    'web_search_preview_2025_03_11',
  ]),
});

const tool = z.discriminatedUnion('type', [functionTool, otherTool], {
  error: (issue) =>
    typeof issue.input === 'object' ? 'expected "function"' : 'expected a tool with type "function"',
});

const namedFunction = z.object({ type: z.literal('function'), name: z.string() });

const allowedTools = z.object({
  type: z.literal('allowed_tools'),
  mode: z.enum(['auto', 'required']),
  tools: z.array(namedFunction).min(1).max(MAX_TOOLS),
});

export const responseToolFields = {
  tools: z.array(tool).max(MAX_TOOLS).nullish(),
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
