/** A validated body as a generation job: defaults filled in, sizes and ids checked against the model. */
import { randomUUID } from 'node:crypto';
import { AppError } from '../errors.ts';
import type { PruningChoice } from '../policies/index.ts';
import type { SamplingParams } from '../runtime/protocol.ts';
import { PLAIN_REPLY } from './choice-parts.ts';
import type { ReplyFormat } from './choice-parts.ts';
import type { GenerationJob } from './generation-job.ts';
import type { LoadedModel } from './model.ts';
import type { SamplingFields } from './schemas/fields.ts';

/** What differs between routes. */
export interface JobOptions {
  /** Start of the reply's id, such as `chatcmpl-`. */
  readonly idPrefix: string;
  readonly prompts: readonly (readonly number[])[];
  /** The field that holds the prompts, for errors. */
  readonly promptParam: string;
  /** null = `defaultMaxTokens`, or what fits in the context if that is less. */
  readonly maxTokens: number | null;
  readonly maxTokensParam: string;
  readonly defaultMaxTokens: number;
  readonly logprobs: number | null;
  readonly promptLogprobs: number | null;
  readonly pruning: PruningChoice | null;
  /** What completions must look like, as engine requests say it. Default: anything. */
  readonly constraint?: string | null;
  /** Default: the text is content, all of it. */
  readonly replyFormat?: ReplyFormat;
}

/** @throws AppError `invalid_request`, `context_length_exceeded` */
export function createJob(fields: SamplingFields, model: LoadedModel, options: JobOptions): GenerationJob {
  const minTokens = fields.min_tokens ?? 0;
  if (fields.return_progress === true && fields.stream !== true) {
    throw new AppError('invalid_request', 'return_progress: expected "stream": true beside it', {
      param: 'return_progress',
    });
  }
  const prompts = options.prompts.map((ids, i) => {
    const param = options.prompts.length === 1 ? options.promptParam : `${options.promptParam}[${i}]`;
    const maxTokens = chooseMaxTokens(ids.length, model, options, param);
    if (minTokens > maxTokens) {
      throw new AppError(
        'invalid_request',
        `min_tokens: expected at most max_tokens (${maxTokens}), got ${minTokens}`,
        {
          param: 'min_tokens',
        },
      );
    }
    return { ids: Int32Array.from(ids), maxTokens };
  });
  return {
    id: `${options.idPrefix}${randomUUID().replaceAll('-', '')}`,
    prompts,
    numChoices: fields.n ?? 1,
    sampling: sampling(fields, model, options.logprobs),
    minTokens,
    stop: [fields.stop ?? []].flat(),
    stopTokenIds: readStopTokenIds(fields, model),
    promptLogprobs: options.promptLogprobs,
    priority: fields.priority ?? 0,
    cachePrompt: fields.cache_prompt ?? true,
    reportProgress: fields.return_progress ?? false,
    maxTimeMs: fields.max_time_ms ?? null,
    pruning: options.pruning,
    constraint: options.constraint ?? null,
    replyFormat: options.replyFormat ?? PLAIN_REPLY,
  };
}

function readStopTokenIds(fields: SamplingFields, model: LoadedModel): number[] {
  const own = fields.stop_token_ids ?? [];
  own.forEach((id, i) => {
    checkTokenId(id, model, `stop_token_ids[${i}]`);
  });
  const all = [...(fields.ignore_eos === true ? [] : model.endOfSequenceIds), ...own];
  if ((fields.min_tokens ?? 0) > 0 && new Set(all).size >= model.engine.model.vocabSize) {
    throw new AppError(
      'invalid_request',
      'stop_token_ids: expected a token to be left for the first min_tokens, got all of the vocabulary',
      { param: 'stop_token_ids' },
    );
  }
  return all;
}

/** @throws AppError `invalid_request` for an empty prompt, `context_length_exceeded` */
function chooseMaxTokens(
  promptTokens: number,
  model: LoadedModel,
  options: JobOptions,
  param: string,
): number {
  if (promptTokens === 0)
    throw new AppError('invalid_request', `${param}: expected at least one token`, { param });
  const { contextLength } = model.engine.model;
  const room = contextLength - promptTokens;
  const limit = encodingLimit(model);
  if (promptTokens > limit) throw contextExceeded(contextLength, `more than ${limit} in the prompt`, param);
  const requested = options.maxTokens ?? Math.max(1, Math.min(room, options.defaultMaxTokens));
  if (requested <= room) return requested;
  throw contextExceeded(
    contextLength,
    `${promptTokens + requested}: ${promptTokens} in the prompt and ${requested} for the completion`,
    promptTokens >= contextLength ? param : options.maxTokensParam,
  );
}

function contextExceeded(contextLength: number, found: string, param: string): AppError {
  return new AppError(
    'context_length_exceeded',
    `expected at most ${contextLength} tokens (the model's context), got ${found}`,
    { param },
  );
}

/** Beyond the context by more than this, nobody needs to know by how much. */
const EXACT_EXCESS = 4096;

/** Ids of a prompt that are worth having: the work of encoding the rest would hold up everyone. */
export function encodingLimit(model: LoadedModel): number {
  return model.engine.model.contextLength + EXACT_EXCESS;
}

/**
 * Refuses a text whose length alone proves that its tokens cannot fit: tokenising megabytes would hold up everyone.
 * @throws AppError `context_length_exceeded`
 */
export function checkTextLength(text: string, model: LoadedModel, param: string): void {
  const { contextLength } = model.engine.model;
  const { maxTokenBytes } = model.tokenizer;
  if (maxTokenBytes === null) return;
  const leastTokens = Math.ceil(Buffer.byteLength(text, 'utf8') / maxTokenBytes);
  if (leastTokens <= contextLength) return;
  throw contextExceeded(contextLength, `at least ${leastTokens} in the prompt`, param);
}

function checkTokenId(id: number, model: LoadedModel, param: string): void {
  const { vocabSize } = model.engine.model;
  if (id >= vocabSize) {
    throw new AppError('invalid_request', `${param}: expected a token id below ${vocabSize}, got ${id}`, {
      param,
    });
  }
}

/** Checks token ids from a client. @throws AppError `invalid_request` with param `prompt[3]` or the like */
export function checkTokenIds(ids: readonly number[], model: LoadedModel, param: string): void {
  const index = ids.findIndex((id) => id >= model.engine.model.vocabSize);
  if (index >= 0) checkTokenId(ids[index] ?? 0, model, `${param}[${index}]`);
}

/** OpenAI allows `top_p: 0`, the most probable token alone: the smallest share that keeps exactly that one. */
const SMALLEST_TOP_P = 1e-9;

function sampling(fields: SamplingFields, model: LoadedModel, logprobs: number | null): SamplingParams {
  const { defaults } = model;
  const logitBias = Object.entries(fields.logit_bias ?? {}).map(([id, bias]) => [Number(id), bias] as const);
  for (const [id] of logitBias) checkTokenId(id, model, `logit_bias.${id}`);
  return {
    temperature: fields.temperature ?? defaults.temperature,
    topP: Math.max(SMALLEST_TOP_P, fields.top_p ?? defaults.topP),
    topK: Math.max(0, fields.top_k ?? defaults.topK),
    minP: fields.min_p ?? defaults.minP,
    repetitionPenalty: fields.repetition_penalty ?? defaults.repetitionPenalty,
    presencePenalty: fields.presence_penalty ?? 0,
    frequencyPenalty: fields.frequency_penalty ?? 0,
    logitBias,
    seed: fields.seed ?? null,
    logprobs,
  };
}
