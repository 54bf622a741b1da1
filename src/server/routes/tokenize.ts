/** `POST /tokenize` and `/detokenize`, the one the other's inverse: control tokens stay visible. */
import type { z } from 'zod';
import { invalidField } from '../../errors.ts';
import { nameIgnoredFields, readBody } from '../body.ts';
import { callOf } from '../call.ts';
import { toTemplateMessages } from '../chat-messages.ts';
import { chatPrompt } from '../chat-prompt.ts';
import type { AppContext, ServerContext } from '../context.ts';
import { checkMessageImages } from '../images/check-images.ts';
import type { LoadedModel } from '../model.ts';
import { parseFields } from '../operation.ts';
import { detokenizeBody, tokenizeBody } from '../schemas/bodies.ts';
import { readToolUse } from '../tools.ts';

export function tokenize(context: ServerContext) {
  return async (c: AppContext): Promise<Response> => {
    context.models.checkOpen();
    const body = await readBody(c, context.config.limits.body_bytes);
    const { fields, ignoredFields } = parseFields(tokenizeBody, body);
    nameIgnoredFields(c, ignoredFields);
    const model = await context.models.acquire(fields.model, callOf(c));
    const tokens = readTokens(fields, model, context);
    return c.json({ tokens, count: tokens.length });
  };
}

/** @throws AppError naming the field */
function readTokens(
  fields: z.infer<typeof tokenizeBody>,
  model: LoadedModel,
  context: ServerContext,
): number[] {
  const { prompt, messages, tools, chat_template_kwargs: kwargs } = fields;
  if (!messages) {
    if (tools) throw invalidField('tools', 'expected messages beside it');
    if (typeof prompt !== 'string') throw invalidField('prompt', 'expected prompt or messages, got neither');
    return model.tokenizer.encode(prompt);
  }
  if (typeof prompt === 'string') throw invalidField('prompt', 'expected only one of prompt and messages');
  checkMessageImages(messages, context.images);
  return chatPrompt(model, {
    messages: toTemplateMessages(messages),
    tools: readToolUse({ tools }, model),
    content: null,
    kwargs,
  }).ids;
}

export function detokenize(context: ServerContext) {
  return async (c: AppContext): Promise<Response> => {
    context.models.checkOpen();
    const body = await readBody(c, context.config.limits.body_bytes);
    const { fields, ignoredFields } = parseFields(detokenizeBody, body);
    nameIgnoredFields(c, ignoredFields);
    const { model: name, tokens } = fields;
    const model = await context.models.acquire(name, callOf(c));
    return c.json({ prompt: model.tokenizer.decode(tokens, { skipSpecialTokens: false }) });
  };
}
