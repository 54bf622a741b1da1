/** Items of a conversation as the chat messages that a model's template knows. */
import { AppError } from '../../errors.ts';
import type { ChatMessage } from '../../text/chat-template.ts';
import type { ConversationItem, InputPart } from '../schemas/response-items.ts';

export interface PlacedItem {
  readonly item: ConversationItem;
  /** Where the client wrote it, for errors. */
  readonly param: string;
}

interface ToolCall {
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; readonly arguments: string };
}

/** One turn of the model, whose reasoning, text and calls are items of their own. */
interface ModelTurn {
  role: 'assistant';
  content: string;
  reasoning_content?: string;
  tool_calls?: ToolCall[];
  [key: string]: unknown;
}

/** @throws AppError `invalid_request`, `unsupported_value` */
export function toMessages(instructions: string | null, items: readonly PlacedItem[]): ChatMessage[] {
  const messages: ChatMessage[] = [];
  const calledNames = new Map<string, string>();
  let turn: ModelTurn | null = null;
  const startTurn = (): ModelTurn => {
    const started: ModelTurn = { role: 'assistant', content: '' };
    messages.push(started);
    return started;
  };
  if (instructions !== null) messages.push({ role: 'system', content: instructions });
  for (const { item, param } of items) {
    if (item.type === 'reasoning') {
      turn = startTurn();
      const text = (item.content ?? []).map((part) => part.text).join('\n');
      if (text !== '') turn.reasoning_content = text;
    } else if (item.type === 'function_call') {
      turn ??= startTurn();
      calledNames.set(item.call_id, item.name);
      (turn.tool_calls ??= []).push(toolCall(item));
    } else if (item.type === 'function_call_output') {
      turn = null;
      const name = calledNames.get(item.call_id);
      if (name === undefined) throw unknownCall(item.call_id, param);
      messages.push({
        role: 'tool',
        tool_call_id: item.call_id,
        name,
        content: textOf(item.output, `${param}.output`),
      });
    } else if (item.role === 'assistant') {
      if (turn === null || turn.content !== '' || turn.tool_calls !== undefined) turn = startTurn();
      turn.content = textOf(item.content, `${param}.content`);
    } else {
      turn = null;
      // Templates know no role `developer`; OpenAI's reference makes it the successor of `system`.
      const role = item.role === 'developer' ? 'system' : item.role;
      messages.push({ role, content: textOf(item.content, `${param}.content`) });
    }
  }
  return messages;
}

function toolCall(item: ConversationItem & { type: 'function_call' }): ToolCall {
  return {
    id: item.call_id,
    type: 'function',
    function: { name: item.name, arguments: item.arguments },
  };
}

function unknownCall(callId: string, param: string): AppError {
  const id = JSON.stringify(callId.slice(0, 64));
  return new AppError('invalid_request', `expected the call_id of an earlier function_call, got ${id}`, {
    param: `${param}.call_id`,
  });
}

/** Parts of one content are joined by newlines. */
function textOf(content: string | readonly InputPart[], param: string): string {
  if (typeof content === 'string') return content;
  return content
    .map((part, i) => {
      if (part.type === 'refusal') return part.refusal;
      if (part.type === 'input_text' || part.type === 'output_text') return part.text;
      throw new AppError(
        'unsupported_value',
        `the loaded model reads text only, got a part of type "${part.type}"`,
        { param: `${param}[${i}].type` },
      );
    })
    .join('\n');
}
