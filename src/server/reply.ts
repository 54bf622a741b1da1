/** A generation job's reply, streamed or whole, for any route that can say what its choices look like. */
import { invariant } from '../errors.ts';
import { policyLabel } from '../policies/index.ts';
import type { FinishReason } from '../runtime/protocol.ts';
import type { RequestRecord } from './access-log.ts';
import type { GeneratedToken } from './choice-text.ts';
import type { AppContext, ServerContext } from './context.ts';
import { toAppError } from './errors.ts';
import { generate } from './generation.ts';
import { ClientGoneError } from './generation-job.ts';
import type { GenerationEvent, GenerationJob, PromptLogprobs } from './generation-job.ts';
import type { LoadedModel } from './model.ts';
import { pruningObject } from './pruning-report.ts';
import { RequestMeter } from './request-meter.ts';
import { streamEvents } from './sse.ts';
import { timingsObject, usageObject } from './usage.ts';

type Of<T extends GenerationEvent['type']> = Extract<GenerationEvent, { type: T }>;

/** All of one choice, for a reply that is not streamed. */
interface CollectedChoice {
  text: string;
  tokens: GeneratedToken[];
  promptLogprobs: PromptLogprobs | null;
  reason: FinishReason | null;
}

/** What a route's objects look like; `begin`, `delta` and `finish` give entries of a chunk's `choices`. */
export interface ReplyShape {
  readonly wholeObject: string;
  readonly chunkObject: string;
  /** null = nothing to say before the first text. */
  begin(event: Of<'start'>): object | null;
  delta(event: Of<'delta'>): object;
  finish(event: Of<'finish'>): object;
  whole(index: number, choice: CollectedChoice): object;
}

export interface ReplyOptions {
  readonly model: LoadedModel;
  readonly job: GenerationJob;
  readonly shape: ReplyShape;
  readonly isStreamed: boolean;
  readonly includeUsage: boolean;
}

export async function reply(c: AppContext, context: ServerContext, options: ReplyOptions): Promise<Response> {
  const { model, job } = options;
  const record = c.get('record');
  record.model = model.id;
  record.policy = policyLabel(job.pruning);
  const logsText = context.config.log.prompts;
  if (logsText)
    record.prompt = job.prompts
      .map(({ ids }) => model.tokenizer.decode(ids, { skipSpecialTokens: false }))
      .join('\n');
  const left = new AbortController();
  const clientSignal = AbortSignal.any([c.req.raw.signal, left.signal]);
  const meter = new RequestMeter(context.metrics, job, record.startedMs);
  const generated = generate(model, job, clientSignal, (choice, ms) => {
    meter.token(choice, ms);
  });
  const events = observe(generated, record, meter, logsText);
  const createdSeconds = Math.floor(Date.now() / 1000);
  const envelope = (object: string) => ({ id: job.id, object, created: createdSeconds, model: model.id });
  if (!options.isStreamed) return c.json(await collect(events, envelope, options));
  const abort = () => {
    record.wasCancelled = true;
    left.abort();
  };
  return streamEvents(c, chunks(events, envelope, options), {
    pingMs: context.config.sse.ping_ms,
    onCancel: abort,
    toErrorEvent: (error) => {
      if (error instanceof ClientGoneError) {
        abort();
        return null;
      }
      const body = toAppError(error, context.logger, c.get('requestId')).toBody();
      record.error = body.code ?? body.type;
      return { error: body };
    },
  });
}

/** Passes events on and notes for the log line what they say of the whole request. */
async function* observe(
  events: AsyncIterable<GenerationEvent>,
  record: RequestRecord,
  meter: RequestMeter,
  logsText: boolean,
): AsyncGenerator<GenerationEvent, void, void> {
  const reasons: string[] = [];
  record.finishReasons = reasons;
  for await (const event of events) {
    if (event.type === 'finish') reasons.push(event.reason);
    if (event.type === 'delta' && logsText) record.completion = (record.completion ?? '') + event.text;
    if (event.type === 'end') {
      record.usage = event.usage;
      record.timings = event.timings;
      meter.end(event, reasons);
    }
    yield event;
  }
}

/** `pruning` is absent unless something was asked or is left out by default. */
function totals({ usage, timings, pruning: report }: Of<'end'>, { job }: ReplyOptions): object {
  return {
    ...(job.pruning && { pruning: pruningObject(job.pruning, report) }),
    timings: timingsObject(timings, usage),
  };
}

async function collect(
  events: AsyncIterable<GenerationEvent>,
  envelope: (object: string) => object,
  options: ReplyOptions,
): Promise<object> {
  const { job, shape } = options;
  const choices = Array.from({ length: job.prompts.length * job.numChoices }, (): CollectedChoice => ({
    text: '',
    tokens: [],
    promptLogprobs: null,
    reason: null,
  }));
  const at = (index: number) => {
    const choice = choices[index];
    invariant(choice, `choice ${index} exists`);
    return choice;
  };
  let end: Of<'end'> | null = null;
  for await (const event of events) {
    if (event.type === 'start') at(event.choice).promptLogprobs = event.promptLogprobs;
    if (event.type === 'finish') at(event.choice).reason = event.reason;
    if (event.type === 'end') end = event;
    if (event.type !== 'delta') continue;
    at(event.choice).text += event.text;
    for (const token of event.tokens) at(event.choice).tokens.push(token);
  }
  invariant(end, 'a generation ends with its totals');
  return {
    ...envelope(shape.wholeObject),
    choices: choices.map((choice, index) => shape.whole(index, choice)),
    usage: usageObject(end.usage),
    ...totals(end, options),
  };
}

/** The last choice's end waits for the totals, which stand on its chunk unless a usage chunk follows. */
async function* chunks(
  events: AsyncIterable<GenerationEvent>,
  envelope: (object: string) => object,
  options: ReplyOptions,
): AsyncGenerator<object, void, void> {
  const { shape, includeUsage } = options;
  const chunk = (choice: object | null, extra: object = {}) => ({
    ...envelope(shape.chunkObject),
    choices: choice === null ? [] : [choice],
    ...(includeUsage && { usage: null }),
    ...extra,
  });
  let last: object | null = null;
  for await (const event of events) {
    if (event.type === 'progress') {
      const { total, cached, processed, timeMs } = event;
      yield chunk(null, {
        prompt_progress: { total, cache: cached, processed, time_ms: Math.round(timeMs * 10) / 10 },
      });
    } else if (event.type === 'start') {
      const choice = shape.begin(event);
      if (choice !== null) yield chunk(choice);
    } else if (event.type === 'delta') {
      yield chunk(shape.delta(event));
    } else if (event.type === 'finish') {
      if (event.isLast) last = shape.finish(event);
      else yield chunk(shape.finish(event));
    } else if (includeUsage) {
      yield chunk(last);
      yield chunk(null, { usage: usageObject(event.usage), ...totals(event, options) });
    } else {
      yield chunk(last, totals(event, options));
    }
  }
}
