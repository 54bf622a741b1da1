/** A response's flat tools in the form that chats have them in. */
import { AppError } from '../../errors.ts';
import type { ResponseToolFields } from '../schemas/response-tools.ts';
import type { FunctionTool, ToolChoice, ToolFields } from '../schemas/tools.ts';

/** @throws AppError `unsupported_value` for tools that are no functions */
export function chatToolFields(fields: ResponseToolFields): ToolFields {
  return {
    tools: fields.tools?.map(chatTool),
    tool_choice: chatToolChoice(fields.tool_choice),
    parallel_tool_calls: fields.parallel_tool_calls,
  };
}

/** Where the flat form has what an error names. */
export function flatToolParam(param: string): string {
  return param.replace('.function.', '.').replace('.allowed_tools.', '.');
}

function chatTool(tool: NonNullable<ResponseToolFields['tools']>[number], index: number): FunctionTool {
  if (!('name' in tool)) {
    const param = `tools[${index}].type`;
    const type = JSON.stringify(tool.type.slice(0, 64));
    throw new AppError('unsupported_value', `${param}: expected "function", got ${type}`, { param });
  }
  const { type, ...definition } = tool;
  return { type, function: definition };
}

function chatToolChoice(choice: ResponseToolFields['tool_choice']): ToolChoice | null {
  if (choice === undefined || choice === null || typeof choice === 'string') return choice ?? null;
  if (choice.type === 'function') return { type: 'function', function: { name: choice.name } };
  const tools = choice.tools.map(({ type, name }) => ({ type, function: { name } }));
  return { type: 'allowed_tools', allowed_tools: { mode: choice.mode, tools } };
}
