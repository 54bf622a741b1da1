/** `/v1/responses`: answers a conversation that may continue an earlier response. */
import { AppError } from '../../errors.ts';
import type { ChatMessage } from '../../text/chat-template.ts';
import { encodeChat } from '../../text/encode-chat.ts';
import type { ServerContext } from '../context.ts';
import { checkTextLength, createJob, encodingLimit } from '../job.ts';
import type { LoadedModel } from '../model.ts';
import { parseFields } from '../operation.ts';
import type { Call, Generation, Operation, SseFraming } from '../operation.ts';
import { choosePruning } from '../pruning.ts';
import { refuseFields, refuseSpeculative } from '../refusals.ts';
import { checkInputImages } from '../images/check-images.ts';
import { toMessages } from '../responses/conversation.ts';
import { placedItems, readConversation } from '../responses/input.ts';
import { responseReply } from '../responses/reply.ts';
import type { ResponseMemory } from '../responses/store.ts';
import { responseBody } from '../schemas/responses.ts';
import type { ResponseBody } from '../schemas/responses.ts';

/** Events are named on this route, and nothing follows the last. */
const NAMED_SSE: SseFraming = {
  frame: (event) => `event: ${(event as { type: string }).type}\ndata: ${JSON.stringify(event)}\n\n`,
  end: '',
};

/** @param memory where earlier responses are looked up and this one is kept */
export function responses(context: ServerContext, memory: ResponseMemory): Operation {
  return {
    sse: NAMED_SSE,
    prepare: (body, call) => prepare(context, memory, body, call),
  };
}

async function prepare(
  context: ServerContext,
  memory: ResponseMemory,
  body: Record<string, unknown>,
  call: Call,
): Promise<Generation> {
  const { fields, ignoredFields } = parseFields(responseBody, body);
  const model = await context.models.acquire(fields.model, call);
  refuse(fields);
  checkInputImages(fields.input ?? [], context.images);
  const pruning = choosePruning(model, { field: fields.pruning, header: call.pruningHeader });
  const logprobs = readLogprobs(fields);
  const conversation = readConversation(fields, memory, call.client);
  const messages = toMessages(fields.instructions ?? null, placedItems(conversation));
  const job = createJob({ ...fields, stream_options: null }, model, {
    idPrefix: 'resp_',
    prompts: [encode(model, messages)],
    promptParam: 'input',
    maxTokens: fields.max_output_tokens ?? null,
    maxTokensParam: 'max_output_tokens',
    defaultMaxTokens: model.defaults.maxTokens ?? Number.POSITIVE_INFINITY,
    logprobs,
    promptLogprobs: null,
    pruning,
  });
  return responseReply(context, call, { fields, model, job, conversation, memory, ignoredFields });
}

/** @throws AppError `unsupported_parameter`, `unsupported_value` for what the server cannot do */
function refuse(fields: ResponseBody): void {
  const { background, tools, tool_choice, text, truncation } = fields;
  refuseFields({ background, tools, tool_choice });
  refuseSpeculative({ speculative: fields.speculative });
  for (const name of ['conversation', 'prompt', 'context_management'] as const) {
    const value = fields[name];
    if (value === undefined || value === null) continue;
    throw new AppError('unsupported_parameter', `${name} is not supported; expected no value`, {
      param: name,
    });
  }
  const format = text?.format as { type?: unknown } | null | undefined;
  if (format !== undefined && format !== null && format.type !== 'text') {
    throw new AppError('unsupported_value', 'expected {"type":"text"}', { param: 'text.format' });
  }
  if (truncation === 'auto') {
    throw new AppError('unsupported_value', 'truncation: expected "disabled", got "auto"', {
      param: 'truncation',
    });
  }
}

/** The number of alternatives to report, or null for no log-probabilities at all. */
function readLogprobs({ include, top_logprobs: top }: ResponseBody): number | null {
  const isAsked = include?.includes('message.output_text.logprobs') ?? false;
  if (isAsked) return top ?? 0;
  if (typeof top === 'number' && top > 0) {
    const needed = '"include": ["message.output_text.logprobs"]';
    throw new AppError('invalid_request', `top_logprobs: expected ${needed} beside it`, {
      param: 'top_logprobs',
    });
  }
  return null;
}

/** @throws AppError with param `input` */
function encode(model: LoadedModel, messages: readonly ChatMessage[]): number[] {
  try {
    return encodeChat(model.tokenizer, model.template, messages, {
      maxIds: encodingLimit(model),
      onRendered: (text) => {
        checkTextLength(text, model, 'input');
      },
    });
  } catch (error) {
    if (!(error instanceof AppError) || !(error.param ?? '').startsWith('messages')) throw error;
    throw new AppError(error.errorCode, error.message, { param: 'input', cause: error });
  }
}
