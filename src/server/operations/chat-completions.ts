/** `/v1/chat/completions`: answers a conversation. */
import { AppError } from '../../errors.ts';
import type { ChatMessage } from '../../text/chat-template.ts';
import { encodeChat } from '../../text/encode-chat.ts';
import type { GeneratedToken } from '../choice-text.ts';
import type { ServerContext } from '../context.ts';
import { checkMessageImages } from '../images/check-images.ts';
import { checkTextLength, createJob } from '../job.ts';
import { chatLogprobs } from '../logprobs.ts';
import type { TokenNames } from '../logprobs.ts';
import { parseFields } from '../operation.ts';
import type { Call, Generation, Operation } from '../operation.ts';
import { choosePruning } from '../pruning.ts';
import { refuseFields, refuseMessages, refuseSpeculative } from '../refusals.ts';
import { choicesReply } from '../reply.ts';
import type { ReplyShape } from '../reply.ts';
import { chatCompletionBody } from '../schemas/bodies.ts';
import type { ChatCompletionBody } from '../schemas/bodies.ts';
import type { ChatMessageInput } from '../schemas/chat-messages.ts';
import { PLAIN_SSE } from '../sse.ts';

export function chatCompletions(context: ServerContext): Operation {
  return {
    sse: PLAIN_SSE,
    prepare: (body, call) => prepare(context, body, call),
  };
}

async function prepare(
  context: ServerContext,
  body: Record<string, unknown>,
  call: Call,
): Promise<Generation> {
  const { fields, ignoredFields } = parseFields(chatCompletionBody, body);
  const model = await context.models.acquire(fields.model, call);
  refuseFields(fields);
  refuseSpeculative(fields);
  checkMessageImages(fields.messages, context.images);
  const pruning = choosePruning(model, { field: fields.pruning, header: call.pruningHeader });
  const { maxTokens, maxTokensParam } = readMaxTokens(fields);
  const promptIds = encodeChat(model.tokenizer, model.template, toTemplateMessages(fields.messages), {
    onRendered: (text) => {
      checkTextLength(text, model, 'messages');
    },
  });
  const job = createJob(fields, model, {
    idPrefix: 'chatcmpl-',
    prompts: [promptIds],
    promptParam: 'messages',
    maxTokens,
    maxTokensParam,
    defaultMaxTokens: model.defaults.maxTokens ?? Number.POSITIVE_INFINITY,
    logprobs: readLogprobs(fields),
    promptLogprobs: null,
    pruning,
  });
  const names = { tokenizer: model.tokenizer, asIds: fields.return_tokens_as_token_ids ?? false };
  return choicesReply(context, call, {
    model,
    job,
    shape: chatShape(names, job.sampling.logprobs !== null),
    isStreamed: fields.stream ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
    ignoredFields,
  });
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
