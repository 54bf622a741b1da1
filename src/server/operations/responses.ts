/** `/v1/responses`: answers a conversation that may continue an earlier response. */
import { AppError } from '../../errors.ts';
import type { ServerContext } from '../context.ts';
import { createJob } from '../job.ts';
import { parseFields } from '../operation.ts';
import type { Call, Generation, Operation, SseFraming } from '../operation.ts';
import { choosePruning } from '../pruning.ts';
import { checkInputImages } from '../images/check-images.ts';
import { placedItems, readConversation } from '../responses/input.ts';
import { responsePrompt } from '../responses/prompt.ts';
import { refuseResponseFields } from '../responses/refusals.ts';
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
  refuseResponseFields(fields);
  checkInputImages(fields.input ?? [], context.images);
  const pruning = choosePruning(model, { field: fields.pruning, header: call.pruningHeader });
  const logprobs = readLogprobs(fields);
  const conversation = readConversation(fields, memory, call.client);
  const { ids, replyFormat, constraint } = responsePrompt(fields, placedItems(conversation), model);
  const job = createJob({ ...fields, stream_options: null }, model, {
    idPrefix: 'resp_',
    prompts: [ids],
    promptParam: 'input',
    maxTokens: fields.max_output_tokens ?? null,
    maxTokensParam: 'max_output_tokens',
    defaultMaxTokens: model.defaults.maxTokens ?? Number.POSITIVE_INFINITY,
    logprobs,
    promptLogprobs: null,
    pruning,
    replyFormat,
    constraint,
  });
  return responseReply(context, call, { fields, model, job, conversation, memory, ignoredFields });
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
