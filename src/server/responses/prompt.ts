/** A response's prompt: its conversation and tools as the model's template writes them. */
import { AppError } from '../../errors.ts';
import { chatPrompt } from '../chat-prompt.ts';
import type { ChatPrompt } from '../chat-prompt.ts';
import type { LoadedModel } from '../model.ts';
import type { ResponseBody } from '../schemas/responses.ts';
import { responseContent } from '../structured-output.ts';
import { readToolUse } from '../tools.ts';
import { toMessages } from './conversation.ts';
import type { PlacedItem } from './conversation.ts';
import { chatToolFields, flatToolParam } from './tool-fields.ts';

/** @throws AppError naming the field */
export function responsePrompt(
  fields: ResponseBody,
  items: readonly PlacedItem[],
  model: LoadedModel,
): ChatPrompt {
  const tools = withParams(flatToolParam, () => readToolUse(chatToolFields(fields), model));
  const content = responseContent(fields.text?.format, model);
  const messages = toMessages(fields.instructions ?? null, items);
  const kwargs = fields.chat_template_kwargs;
  return withParams(inputParam, () => chatPrompt(model, { messages, tools, content, kwargs }));
}

/** The messages were made of the input; whoever sent that never saw them. */
function inputParam(param: string): string {
  return param.startsWith('messages') ? 'input' : param;
}

/** What fails in `work` names a field by its name elsewhere. */
function withParams<T>(rename: (param: string) => string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof AppError) || error.param === null) throw error;
    const { errorCode, message, param } = error;
    const renamed = rename(param);
    throw new AppError(
      errorCode,
      message.replace(param, () => renamed),
      { param: renamed, cause: error },
    );
  }
}
