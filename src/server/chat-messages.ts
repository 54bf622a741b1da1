/** Chat messages as the model's template takes them. */
import { AppError } from '../errors.ts';
import type { ChatMessage } from '../text/chat-template.ts';
import { refuseMessages } from './refusals.ts';
import type { ChatMessageInput } from './schemas/chat-messages.ts';

/**
 * Templates know no role `developer`; OpenAI's reference makes it the successor of `system`.
 * @throws AppError `invalid_request` for what is missing or answers nothing, `unsupported_value`
 */
export function toTemplateMessages(messages: readonly ChatMessageInput[]): ChatMessage[] {
  refuseMessages(messages);
  const calledNames = new Map<string, string>();
  return messages.map((message, i): ChatMessage => {
    if (message.role === 'assistant') return assistantMessage(message, calledNames, `messages[${i}]`);
    if (message.role === 'tool') {
      const { role, content, tool_call_id } = message;
      const name = calledNames.get(tool_call_id) ?? unknownCall(tool_call_id, `messages[${i}].tool_call_id`);
      return { role, content, tool_call_id, name: message.name ?? name };
    }
    return { role: message.role === 'developer' ? 'system' : message.role, content: message.content };
  });
}

/** Adds its calls to `calledNames`, by id. */
function assistantMessage(
  { role, content, reasoning_content: reasoning, tool_calls }: ChatMessageInput & { role: 'assistant' },
  calledNames: Map<string, string>,
  where: string,
): ChatMessage {
  const calls = tool_calls ?? [];
  for (const call of calls) calledNames.set(call.id, call.function.name);
  if (calls.length === 0 && (content === undefined || content === null)) {
    throw new AppError(
      'invalid_request',
      `${where}.content: expected a string or a list of content parts, or tool_calls`,
      { param: `${where}.content` },
    );
  }
  return {
    role,
    content: content ?? '',
    ...(reasoning != null && { reasoning_content: reasoning }),
    ...(calls.length > 0 && { tool_calls: calls }),
  };
}

function unknownCall(id: string, param: string): never {
  const got = JSON.stringify(id.slice(0, 64));
  throw new AppError('invalid_request', `${param}: expected the id of an earlier tool call, got ${got}`, {
    param,
  });
}
