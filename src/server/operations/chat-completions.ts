/** `/v1/chat/completions`: answers a conversation. */
import { AppError } from '../../errors.ts';
import { toTemplateMessages } from '../chat-messages.ts';
import { chatPrompt } from '../chat-prompt.ts';
import { chatShape } from '../chat-shape.ts';
import type { ServerContext } from '../context.ts';
import { checkMessageImages } from '../images/check-images.ts';
import { createJob } from '../job.ts';
import { parseFields } from '../operation.ts';
import type { Call, Generation, Operation } from '../operation.ts';
import { choosePruning } from '../pruning.ts';
import { refuseFields, refuseSpeculative } from '../refusals.ts';
import { choicesReply } from '../reply.ts';
import { chatCompletionBody } from '../schemas/bodies.ts';
import type { ChatCompletionBody } from '../schemas/bodies.ts';
import { PLAIN_SSE } from '../sse.ts';
import { chatContent } from '../structured-output.ts';
import { readToolUse } from '../tools.ts';

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
  const { ids, replyFormat, constraint } = chatPrompt(model, {
    tools: readToolUse(fields, model),
    content: chatContent(fields.response_format, model),
    messages: toTemplateMessages(fields.messages),
    kwargs: fields.chat_template_kwargs,
  });
  const job = createJob(fields, model, {
    idPrefix: 'chatcmpl-',
    prompts: [ids],
    promptParam: 'messages',
    maxTokens,
    maxTokensParam,
    defaultMaxTokens: model.defaults.maxTokens ?? Number.POSITIVE_INFINITY,
    logprobs: readLogprobs(fields),
    promptLogprobs: null,
    pruning,
    constraint,
    replyFormat,
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
