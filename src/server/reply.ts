/** A generation job's reply, streamed or whole, for any route that can say what its choices look like. */
import { invariant } from '../errors.ts';
import type { ChoicePart } from './choice-parts.ts';
import type { GeneratedToken, ReplyReason } from './choice-text.ts';
import type { ServerContext } from './context.ts';
import type { GenerationEvent, GenerationJob, PromptLogprobs } from './generation-job.ts';
import type { LoadedModel } from './model.ts';
import { observedEvents } from './observed-events.ts';
import type { Call, Generation } from './operation.ts';
import { pruningObject } from './pruning-report.ts';
import { timingsObject, usageObject } from './usage.ts';

type Of<T extends GenerationEvent['type']> = Extract<GenerationEvent, { type: T }>;

/** All of one choice, for a reply that is not streamed. */
interface CollectedChoice {
  text: string;
  parts: ChoicePart[];
  tokens: GeneratedToken[];
  promptLogprobs: PromptLogprobs | null;
  reason: ReplyReason | null;
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
  readonly ignoredFields: readonly string[];
}

type Envelope = (object: string) => object;

/** The generation of a job whose reply has choices: as one object, or as chunks. */
export function choicesReply(context: ServerContext, call: Call, options: ReplyOptions): Generation {
  const { model, job, isStreamed, ignoredFields } = options;
  const createdSeconds = Math.floor(Date.now() / 1000);
  const envelope: Envelope = (object) => ({ id: job.id, object, created: createdSeconds, model: model.id });
  const events = observedEvents(context, call, model, job);
  return {
    isStreamed,
    ignoredFields,
    whole: () => collect(events, envelope, options),
    stream: () => chunks(events, envelope, options),
    errorObject: (error) => ({ error }),
  };
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
  envelope: Envelope,
  options: ReplyOptions,
): Promise<object> {
  const { job, shape } = options;
  const choices = Array.from({ length: job.prompts.length * job.numChoices }, (): CollectedChoice => ({
    text: '',
    parts: [],
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
    for (const part of event.parts) at(event.choice).parts.push(part);
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
  envelope: Envelope,
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
    } else if (event.type === 'prefill') {
      // The first text tells enough.
    } else if (includeUsage) {
      yield chunk(last);
      yield chunk(null, { usage: usageObject(event.usage), ...totals(event, options) });
    } else {
      yield chunk(last, totals(event, options));
    }
  }
}
