/** A response's prompt: its conversation and tools as the model's template writes them. */
import { AppError } from '../../errors.ts';
import { encodeChat } from '../../text/encode-chat.ts';
import { reasoningStage } from '../../text/reasoning.ts';
import { toolPrompt } from '../../text/tool-calls/template-messages.ts';
import { replyFormat } from '../choice-parts.ts';
import type { ReplyFormat } from '../choice-parts.ts';
import { checkTextLength, encodingLimit } from '../job.ts';
import type { LoadedModel } from '../model.ts';
import { replyGrammar } from '../reply-grammar.ts';
import type { ResponseBody } from '../schemas/responses.ts';
import { constraintOf, responseContent } from '../structured-output.ts';
import { readToolUse } from '../tools.ts';
import { toMessages } from './conversation.ts';
import type { PlacedItem } from './conversation.ts';
import { chatToolFields, flatToolParam } from './tool-fields.ts';

export interface ResponsePrompt {
  readonly ids: number[];
  readonly replyFormat: ReplyFormat;
  /** Of the job. */
  readonly constraint: string | null;
}

/** @throws AppError naming the field */
export function responsePrompt(
  fields: ResponseBody,
  items: readonly PlacedItem[],
  model: LoadedModel,
): ResponsePrompt {
  const { tokenizer, template } = model;
  const toolUse = withParams(flatToolParam, () => readToolUse(chatToolFields(fields), model));
  const content = responseContent(fields.text?.format, model);
  const messages = toMessages(fields.instructions ?? null, items);
  let text = '';
  const ids = withParams(inputParam, () => {
    const prompt = toolPrompt(messages, toolUse.told, template);
    return encodeChat(tokenizer, template, prompt.messages, {
      tools: prompt.tools,
      kwargs: fields.chat_template_kwargs ?? {},
      maxIds: encodingLimit(model),
      onRendered: (rendered) => {
        text = rendered;
        checkTextLength(rendered, model, 'input');
      },
    });
  });
  const reasoning = reasoningStage(template.source, text);
  return {
    ids,
    replyFormat: replyFormat(tokenizer, reasoning, toolUse.reading),
    constraint: constraintOf(replyGrammar(toolUse, content, reasoning)),
  };
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
