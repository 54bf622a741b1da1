/** `POST /tokenize` and `/detokenize`, the one the other's inverse: control tokens stay visible. */
import { AppError } from '../../errors.ts';
import { encodeChat } from '../../text/encode-chat.ts';
import { nameIgnoredFields, readBody } from '../body.ts';
import { callOf } from '../call.ts';
import type { AppContext, ServerContext } from '../context.ts';
import { parseFields } from '../operation.ts';
import { checkMessageImages } from '../images/check-images.ts';
import { toTemplateMessages } from '../chat-messages.ts';
import { detokenizeBody, tokenizeBody } from '../schemas/bodies.ts';

export function tokenize(context: ServerContext) {
  return async (c: AppContext): Promise<Response> => {
    context.models.checkOpen();
    const body = await readBody(c, context.config.limits.body_bytes);
    const { fields, ignoredFields } = parseFields(tokenizeBody, body);
    nameIgnoredFields(c, ignoredFields);
    const { model: name, prompt, messages } = fields;
    const model = await context.models.acquire(name, callOf(c));
    if (typeof prompt === 'string' && messages) {
      throw new AppError('invalid_request', 'prompt: expected only one of prompt and messages', {
        param: 'prompt',
      });
    }
    if (messages) checkMessageImages(messages, context.images);
    const tokens = messages
      ? encodeChat(model.tokenizer, model.template, toTemplateMessages(messages))
      : model.tokenizer.encode(required(prompt));
    return c.json({ tokens, count: tokens.length });
  };
}

function required(prompt: string | null | undefined): string {
  if (typeof prompt === 'string') return prompt;
  throw new AppError('invalid_request', 'prompt: expected prompt or messages, got neither', {
    param: 'prompt',
  });
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
