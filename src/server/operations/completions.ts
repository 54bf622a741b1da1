/** `/v1/completions`: continues one prompt or several, given as text or token ids. */
import { AppError, invariant } from '../../errors.ts';
import { Detokenizer } from '../../text/detokenizer.ts';
import { countCharacters } from '../choice-text.ts';
import type { ServerContext } from '../context.ts';
import type { PromptLogprobs } from '../generation-job.ts';
import { checkTextLength, checkTokenIds, createJob, encodingLimit } from '../job.ts';
import { concatLegacy, legacyLogprobs } from '../logprobs.ts';
import type { LegacyLogprobs, TokenNames } from '../logprobs.ts';
import type { LoadedModel } from '../model.ts';
import { parseFields } from '../operation.ts';
import type { Call, Generation, Operation } from '../operation.ts';
import { choosePruning } from '../pruning.ts';
import { refuseFields, refuseSpeculative, refuseTools } from '../refusals.ts';
import { choicesReply } from '../reply.ts';
import type { ReplyShape } from '../reply.ts';
import { completionBody } from '../schemas/bodies.ts';
import type { PromptField } from '../schemas/prompts.ts';
import { PLAIN_SSE } from '../sse.ts';
import { chatContent, constraintOf } from '../structured-output.ts';

/** OpenAI's default for this route. */
const DEFAULT_MAX_TOKENS = 16;

interface Prompt {
  readonly ids: readonly number[];
  /** What `echo` repeats. */
  readonly text: string;
}

export function completions(context: ServerContext): Operation {
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
  const { fields, ignoredFields } = parseFields(completionBody, body);
  const model = await context.models.acquire(fields.model, call);
  refuseFields(fields);
  refuseTools(fields);
  refuseSpeculative(fields);
  const hasEcho = fields.echo ?? false;
  const pruning = choosePruning(model, { field: fields.pruning, header: call.pruningHeader, hasEcho });
  if (fields.max_tokens === 0 && !hasEcho) {
    throw new AppError('invalid_request', 'max_tokens: expected at least 1, or "echo": true beside 0', {
      param: 'max_tokens',
    });
  }
  const prompts = readPrompts(fields.prompt, model);
  const logprobs = fields.logprobs ?? null;
  const job = createJob(fields, model, {
    idPrefix: 'cmpl-',
    prompts: prompts.map(({ ids }) => ids),
    promptParam: 'prompt',
    maxTokens: fields.max_tokens ?? null,
    maxTokensParam: 'max_tokens',
    defaultMaxTokens: DEFAULT_MAX_TOKENS,
    logprobs,
    // The engine runs a prompt without a completion only for the prompt's log-probabilities.
    promptLogprobs: hasEcho ? (logprobs ?? (fields.max_tokens === 0 ? 0 : null)) : null,
    pruning,
    constraint: constraintOf(chatContent(fields.response_format, model)),
  });
  const names = { tokenizer: model.tokenizer, asIds: fields.return_tokens_as_token_ids ?? false };
  return choicesReply(context, call, {
    model,
    job,
    shape: new CompletionShape(names, prompts, job.numChoices, { hasEcho, hasLogprobs: logprobs !== null }),
    isStreamed: fields.stream ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
    ignoredFields,
  });
}

function readPrompts(field: PromptField, model: LoadedModel): Prompt[] {
  if (typeof field === 'string') return [textPrompt(field, model, 'prompt')];
  if (typeof field[0] === 'number') return [idsPrompt(field as number[], model, 'prompt')];
  return (field as (string | number[])[]).map((prompt, i) =>
    typeof prompt === 'string'
      ? textPrompt(prompt, model, `prompt[${i}]`)
      : idsPrompt(prompt, model, `prompt[${i}]`),
  );
}

function textPrompt(text: string, model: LoadedModel, param: string): Prompt {
  checkTextLength(text, model, param);
  return { ids: model.tokenizer.encode(text, { maxIds: encodingLimit(model) }), text };
}

function idsPrompt(ids: readonly number[], model: LoadedModel, param: string): Prompt {
  checkTokenIds(ids, model, param);
  return { ids, text: model.tokenizer.decode(ids.filter((id) => model.tokenizer.has(id))) };
}

interface ShapeOptions {
  readonly hasEcho: boolean;
  readonly hasLogprobs: boolean;
}

class CompletionShape implements ReplyShape {
  readonly wholeObject = 'text_completion';
  readonly chunkObject = 'text_completion';
  readonly #names: TokenNames;
  readonly #prompts: readonly Prompt[];
  readonly #numChoices: number;
  readonly #options: ShapeOptions;

  constructor(names: TokenNames, prompts: readonly Prompt[], numChoices: number, options: ShapeOptions) {
    this.#names = names;
    this.#prompts = prompts;
    this.#numChoices = numChoices;
    this.#options = options;
  }

  begin({ choice, promptLogprobs }: Parameters<ReplyShape['begin']>[0]): object | null {
    if (!this.#options.hasEcho) return null;
    const prompt = this.#prompt(choice);
    return this.#choice(choice, prompt.text, this.#echoed(prompt, promptLogprobs), null);
  }

  delta({ choice, text, tokens }: Parameters<ReplyShape['delta']>[0]): object {
    const logprobs = this.#options.hasLogprobs
      ? legacyLogprobs(this.#names, tokens, this.#firstOffset(choice))
      : null;
    return this.#choice(choice, text, logprobs, null);
  }

  finish({ choice, reason }: Parameters<ReplyShape['finish']>[0]): object {
    return this.#choice(choice, '', null, reason);
  }

  whole(index: number, { text, tokens, promptLogprobs, reason }: Parameters<ReplyShape['whole']>[1]): object {
    const { hasEcho, hasLogprobs } = this.#options;
    const prompt = this.#prompt(index);
    const echoed = hasEcho ? this.#echoed(prompt, promptLogprobs) : null;
    const own = hasLogprobs ? legacyLogprobs(this.#names, tokens, this.#firstOffset(index)) : null;
    const logprobs = own && (echoed === null ? own : concatLegacy([echoed, own]));
    return this.#choice(index, hasEcho ? prompt.text + text : text, logprobs, reason);
  }

  #choice(index: number, text: string, logprobs: LegacyLogprobs | null, reason: string | null): object {
    return { index, text, logprobs, finish_reason: reason };
  }

  #prompt(choice: number): Prompt {
    const prompt = this.#prompts[Math.floor(choice / this.#numChoices)];
    invariant(prompt, `choice ${choice} has a prompt`);
    return prompt;
  }

  #firstOffset(choice: number): number {
    return this.#options.hasEcho ? countCharacters(this.#prompt(choice).text) : 0;
  }

  #echoed({ ids }: Prompt, promptLogprobs: PromptLogprobs | null): LegacyLogprobs | null {
    if (!this.#options.hasLogprobs) return null;
    invariant(
      promptLogprobs?.length === ids.length,
      'the engine gives log-probabilities for every prompt token',
    );
    const detokenizer = new Detokenizer(this.#names.tokenizer);
    let offset = 0;
    const tokens = ids.map((id, i) => {
      const token = { id, logprobs: promptLogprobs[i] ?? null, offset };
      offset += countCharacters(detokenizer.push(id));
      return token;
    });
    return legacyLogprobs(this.#names, tokens, 0);
  }
}
