/** `POST /v1/chat/completions`, streamed and not. */
import { AppError } from '../../errors.ts';
import type { ChatMessage } from '../../text/chat-template.ts';
import { encodeChat } from '../../text/encode-chat.ts';
import { readBody } from '../body.ts';
import type { GeneratedToken } from '../choice-text.ts';
import type { AppContext, ServerContext } from '../context.ts';
import { checkModelName, checkTextLength, createJob } from '../job.ts';
import { chatLogprobs } from '../logprobs.ts';
import type { TokenNames } from '../logprobs.ts';
import { PRUNING_HEADER, choosePruning } from '../pruning.ts';
import { refuseFields, refuseMessages, refuseSpeculative } from '../refusals.ts';
import { reply } from '../reply.ts';
import type { ReplyShape } from '../reply.ts';
import { chatCompletionBody } from '../schemas/bodies.ts';
import type { ChatCompletionBody } from '../schemas/bodies.ts';
import type { ChatMessageInput } from '../schemas/chat-messages.ts';

export function chatCompletions(context: ServerContext) {
  return async (c: AppContext): Promise<Response> => {
    const model = context.lifecycle.admit();
    const body = await readBody(c, chatCompletionBody, context.config.limits.body_bytes);
    checkModelName(body.model, model);
    refuseFields(body);
    refuseSpeculative(body);
    const pruning = choosePruning(model, { field: body.pruning, header: c.req.header(PRUNING_HEADER) });
    const { maxTokens, maxTokensParam } = readMaxTokens(body);
    const promptIds = encodeChat(model.tokenizer, model.template, toTemplateMessages(body.messages), {
      onRendered: (text) => {
        checkTextLength(text, model, 'messages');
      },
    });
    const job = createJob(body, model, {
      idPrefix: 'chatcmpl-',
      prompts: [promptIds],
      promptParam: 'messages',
      maxTokens,
      maxTokensParam,
      defaultMaxTokens: model.defaults.maxTokens ?? Number.POSITIVE_INFINITY,
      logprobs: readLogprobs(body),
      promptLogprobs: null,
      pruning,
    });
    return reply(c, context, {
      model,
      job,
      shape: chatShape(
        { tokenizer: model.tokenizer, asIds: body.return_tokens_as_token_ids ?? false },
        job.sampling.logprobs !== null,
      ),
      isStreamed: body.stream ?? false,
      includeUsage: body.stream_options?.include_usage ?? false,
    });
  };
}

/** Templates know no role `developer`; OpenAI's reference makes it the successor of `system`. */
export function toTemplateMessages(messages: readonly ChatMessageInput[]): ChatMessage[] {
  refuseMessages(messages);
  return messages.map((message) => ({
    role: message.role === 'developer' ? 'system' : message.role,
    content: 'content' in message ? (message.content ?? null) : null,
  }));
}

function readMaxTokens(body: ChatCompletionBody): { maxTokens: number | null; maxTokensParam: string } {
  const { max_tokens: older, max_completion_tokens: newer } = body;
  if (typeof older === 'number' && typeof newer === 'number') {
    throw new AppError(
      'invalid_request',
      'max_tokens: expected only one of max_tokens and max_completion_tokens',
      {
        param: 'max_tokens',
      },
    );
  }
  const usesOlder = typeof older === 'number';
  return {
    maxTokens: newer ?? older ?? null,
    maxTokensParam: usesOlder ? 'max_tokens' : 'max_completion_tokens',
  };
}

function readLogprobs({ logprobs, top_logprobs: top }: ChatCompletionBody): number | null {
  if (logprobs === true) return top ?? 0;
  if (typeof top === 'number' && top > 0) {
    throw new AppError('invalid_request', 'top_logprobs: expected "logprobs": true beside it', {
      param: 'top_logprobs',
    });
  }
  return null;
}

function chatShape(names: TokenNames, hasLogprobs: boolean): ReplyShape {
  const logprobs = (tokens: readonly GeneratedToken[]) =>
    hasLogprobs ? { content: chatLogprobs(names, tokens), refusal: null } : null;
  return {
    wholeObject: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    begin: ({ choice }) => ({
      index: choice,
      delta: { role: 'assistant', content: '' },
      logprobs: null,
      finish_reason: null,
    }),
    delta: ({ choice, text, tokens }) => ({
      index: choice,
      delta: { content: text },
      logprobs: logprobs(tokens),
      finish_reason: null,
    }),
    finish: ({ choice, reason }) => ({ index: choice, delta: {}, logprobs: null, finish_reason: reason }),
    whole: (index, { text, tokens, reason }) => ({
      index,
      message: { role: 'assistant', content: text, refusal: null },
      logprobs: logprobs(tokens),
      finish_reason: reason,
    }),
  };
}
