/** The response as an object: settings as they are in force, and how far it has come. */
import type { PruningChoice } from '../../policies/index.ts';
import type { ReplyReason } from '../choice-text.ts';
import type { GenerationEvent, GenerationJob } from '../generation-job.ts';
import type { LoadedModel } from '../model.ts';
import { pruningObject } from '../pruning-report.ts';
import type { ResponseBody } from '../schemas/responses.ts';
import { timingsObject } from '../usage.ts';
import type { OutputItem } from './output-items.ts';

type End = Extract<GenerationEvent, { type: 'end' }>;

export interface ResponseSettings {
  readonly fields: ResponseBody;
  readonly model: LoadedModel;
  readonly job: GenerationJob;
  readonly createdSeconds: number;
}

/** What a response is before it says anything. */
export function responseInProgress(settings: ResponseSettings): object {
  return {
    ...head(settings),
    status: 'in_progress',
    completed_at: null,
    incomplete_details: null,
    output: [],
    usage: null,
  };
}

/** What it is in the end; `pruning` is absent unless something was asked or is left out by default. */
export function endedResponse(
  settings: ResponseSettings,
  output: readonly OutputItem[],
  reason: ReplyReason,
  end: End,
): object {
  const isComplete = reason !== 'length';
  return {
    ...head(settings),
    status: isComplete ? 'completed' : 'incomplete',
    completed_at: isComplete ? Math.floor(Date.now() / 1000) : null,
    incomplete_details: isComplete ? null : { reason: 'max_output_tokens' },
    output,
    usage: usage(end, reasoningTokens(settings.model, output)),
    ...totals(settings.job.pruning, end),
  };
}

function totals(pruning: PruningChoice | null, end: End): object {
  return {
    ...(pruning && { pruning: pruningObject(pruning, end.pruning) }),
    timings: timingsObject(end.timings, end.usage),
  };
}

function usage({ usage: { promptTokens, cachedTokens, completionTokens } }: End, reasoning: number) {
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: Math.min(reasoning, completionTokens) },
    total_tokens: promptTokens + completionTokens,
  };
}

/** Counted by encoding the text again, which a model may have written in other tokens. */
function reasoningTokens({ tokenizer }: LoadedModel, output: readonly OutputItem[]): number {
  const texts = output.flatMap((item) => (item.type === 'reasoning' ? item.content : []));
  return texts.reduce((sum, { text }) => sum + tokenizer.encodePlain(text).length, 0);
}

/** OpenAI's keys, all of them; those that this server has no use for say so by null. */
function head({ fields, model, job, createdSeconds }: ResponseSettings) {
  return {
    id: job.id,
    object: 'response',
    created_at: createdSeconds,
    background: false,
    error: null,
    instructions: fields.instructions ?? null,
    max_output_tokens: fields.max_output_tokens ?? null,
    max_tool_calls: null,
    model: model.id,
    parallel_tool_calls: fields.parallel_tool_calls ?? true,
    previous_response_id: fields.previous_response_id ?? null,
    prompt_cache_key: null,
    reasoning: { effort: null, summary: null },
    safety_identifier: null,
    service_tier: 'default',
    store: fields.store ?? true,
    temperature: job.sampling.temperature,
    text: { format: fields.text?.format ?? { type: 'text' } },
    tool_choice: fields.tool_choice ?? 'auto',
    tools: fields.tools ?? [],
    top_logprobs: job.sampling.logprobs ?? 0,
    top_p: fields.top_p ?? model.defaults.topP,
    truncation: 'disabled',
    user: null,
    metadata: fields.metadata ?? {},
  };
}
