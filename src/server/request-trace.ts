/** What a trace tells of a request: one span, and one for each phase that it reached. Never a word of its texts. */
import type { AttributeValue, Attributes } from '@opentelemetry/api';
import { SERVER_FAULTS } from '../errors.ts';
import type { GenerationJob } from './generation-job.ts';
import { keptTokens, savedBytes } from './pruning-report.ts';
import type { Milestones, RequestRecord } from './request-record.ts';

/** Where a request came in. */
export interface TraceOrigin {
  readonly requestId: string;
  readonly path: string;
  /** Null = a frame of a WebSocket. */
  readonly method: string | null;
  /** Of the reply; asked for at the end. */
  readonly status?: () => number;
}

export interface SpanData {
  readonly name: string;
  /** In ms of this thread's clock. */
  readonly startMs: number;
  readonly endMs: number;
}

export interface RequestTrace extends SpanData {
  readonly attributes: Attributes;
  readonly hasFailed: boolean;
  /** One after the other, within the request. */
  readonly phases: readonly SpanData[];
}

/** What the conventions for generative AI call the generating routes; others are not traced. */
const OPERATIONS: ReadonlyMap<string, string> = new Map([
  ['/v1/chat/completions', 'chat'],
  ['/v1/responses', 'chat'],
  ['/v1/completions', 'text_completion'],
]);

export function isTraced(path: string): boolean {
  return OPERATIONS.has(path);
}

/** @param endMs when it was over, in ms of this thread's clock */
export function requestTrace(record: RequestRecord, origin: TraceOrigin, endMs: number): RequestTrace {
  const operation = OPERATIONS.get(origin.path) ?? origin.path;
  const { model, error, startedMs } = record;
  return {
    name: model === undefined ? operation : `${operation} ${model}`,
    startMs: startedMs,
    endMs,
    attributes: withoutGaps({
      'gen_ai.operation.name': operation,
      'gen_ai.request.model': model,
      ...PROVIDER,
      ...carrierAttributes(origin),
      ...jobAttributes(record.job),
      ...resultAttributes(record),
      ...pruningAttributes(record),
      'error.type': error,
      'coppice.cancelled': record.wasCancelled === true && record.usage === undefined ? true : undefined,
    }),
    hasFailed: error !== undefined && SERVER_FAULTS.has(error),
    phases: phases(record, endMs),
  };
}

/** `gen_ai.system` is the name that back ends older than the conventions of 2025 know. */
const PROVIDER = { 'gen_ai.provider.name': 'coppice', 'gen_ai.system': 'coppice' };

type Sparse = Record<string, AttributeValue | undefined>;

function carrierAttributes({ requestId, path, method, status }: TraceOrigin): Sparse {
  return {
    'coppice.request.id': requestId,
    'http.route': path,
    'http.request.method': method ?? undefined,
    'network.protocol.name': method === null ? 'websocket' : 'http',
    'http.response.status_code': status?.(),
  };
}

/** Settings as they are in force, defaults filled in; what is off is left out. */
function jobAttributes(job: GenerationJob | undefined): Sparse {
  if (job === undefined) return {};
  const { id, prompts, numChoices, stop, sampling } = job;
  return {
    'gen_ai.response.id': id,
    'gen_ai.request.max_tokens': Math.max(...prompts.map(({ maxTokens }) => maxTokens)),
    'gen_ai.request.choice.count': numChoices === 1 ? undefined : numChoices,
    'gen_ai.request.temperature': sampling.temperature,
    'gen_ai.request.top_p': sampling.topP,
    'gen_ai.request.top_k': sampling.topK || undefined,
    'gen_ai.request.frequency_penalty': sampling.frequencyPenalty || undefined,
    'gen_ai.request.presence_penalty': sampling.presencePenalty || undefined,
    'gen_ai.request.seed': sampling.seed ?? undefined,
    // The conventions' own attribute would hold the strings, which are text of the client's.
    'coppice.request.stop_sequence_count': stop.length || undefined,
    'coppice.request.prompt_count': prompts.length === 1 ? undefined : prompts.length,
  };
}

function resultAttributes({ model, job, usage, finishReasons = [] }: RequestRecord): Sparse {
  return {
    'gen_ai.response.model': job && model,
    'gen_ai.response.finish_reasons': finishReasons.length === 0 ? undefined : [...finishReasons],
    'gen_ai.usage.input_tokens': usage?.promptTokens,
    'gen_ai.usage.output_tokens': usage?.completionTokens,
    'gen_ai.usage.cache_read.input_tokens': usage?.cachedTokens,
  };
}

function pruningAttributes({ policy, pruning }: RequestRecord): Sparse {
  const { tokens = null, kv = null } = pruning ?? {};
  return {
    'coppice.pruning.policy': policy,
    'coppice.pruning.tokens_seen': tokens?.seen,
    'coppice.pruning.tokens_kept': tokens === null ? undefined : keptTokens(tokens),
    'coppice.pruning.kv_bytes': kv?.bytes,
    'coppice.pruning.kv_bytes_saved': kv === null ? undefined : savedBytes(kv),
  };
}

function withoutGaps(attributes: Sparse): Attributes {
  return Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined));
}

/** Times of the phases that were reached; each ends where the next begins, the last one early if the request did. */
function phases({ milestones, timings, job }: RequestRecord, requestEndMs: number): SpanData[] {
  const { submittedMs } = milestones;
  if (submittedMs === undefined) return [];
  // Sums over several prompts, which run side by side, are no time that went by.
  const exact = job?.prompts.length === 1 ? timings : undefined;
  const { prefillMs, firstTokenMs, endMs } = exact ? exactTimes(milestones, exact) : milestones;
  const times = [submittedMs, prefillMs, firstTokenMs].filter((ms) => ms !== undefined);
  const lastMs = Math.min(endMs ?? requestEndMs, requestEndMs);
  return times.map((startMs, i) => ({
    name: ['queue', 'prefill', 'decode'][i] ?? '',
    startMs: between(submittedMs, startMs, lastMs),
    endMs: between(submittedMs, times[i + 1] ?? lastMs, lastMs),
  }));
}

/** This thread hears of a turn of the engine when it is over: only the first token comes out at its end. */
function exactTimes(
  { firstTokenMs: heardMs, endMs }: Milestones,
  { prefillMs, decodeMs }: NonNullable<RequestRecord['timings']>,
): Milestones {
  const firstTokenMs = heardMs ?? (endMs === undefined ? undefined : endMs - decodeMs);
  if (firstTokenMs === undefined) return {};
  return { prefillMs: firstTokenMs - prefillMs, firstTokenMs, endMs: firstTokenMs + decodeMs };
}

function between(least: number, value: number, most: number): number {
  return Math.max(least, Math.min(value, most));
}
