/** A job's events as they happen, noted on the way for the log line and the metrics. */
import { policyLabel } from '../policies/index.ts';
import type { Ticket } from './admission.ts';
import type { ServerContext } from './context.ts';
import { generate } from './generation.ts';
import type { GenerationEvent, GenerationJob } from './generation-job.ts';
import type { LoadedModel } from './model.ts';
import type { Call } from './operation.ts';
import { RequestMeter } from './request-meter.ts';

/**
 * Admits the job at once and starts it with the first `next()`; leaving early, or the call's signal, cancels it.
 * @throws AppError as `Admission.admit`; through `next()` as `generate`
 */
export function observedEvents(
  context: ServerContext,
  call: Call,
  model: LoadedModel,
  job: GenerationJob,
): AsyncGenerator<GenerationEvent, void, void> {
  const promptTokens = job.prompts.map(({ ids }) => ids.length);
  const ticket = context.admissions.of(model.id).admit({ promptTokens, client: call.client });
  call.onEnd(() => {
    ticket.release();
  });
  return observe(context, call, model, job, ticket);
}

async function* observe(
  context: ServerContext,
  { record, signal, stopSignal }: Call,
  model: LoadedModel,
  job: GenerationJob,
  ticket: Ticket,
): AsyncGenerator<GenerationEvent, void, void> {
  const logsText = context.config.log.prompts;
  const reasons: string[] = [];
  const { milestones } = record;
  milestones.submittedMs = performance.now();
  record.job = job;
  record.policy = policyLabel(job.pruning);
  record.finishReasons = reasons;
  if (logsText) record.prompt = promptText(model, job);
  const meter = new RequestMeter(context.metrics, model.id, job, record.startedMs);
  const onToken = (choice: number, ms: number) => {
    milestones.firstTokenMs ??= ms;
    meter.token(choice, ms);
  };
  const events = generate(model, job, signal, { onToken, stopSignal });
  for await (const event of events) {
    if (event.type === 'prefill') {
      milestones.prefillMs ??= event.arrivedMs;
      ticket.started(event.promptIndex);
    }
    if (event.type === 'finish') reasons.push(event.reason);
    if (event.type === 'delta' && logsText) record.completion = (record.completion ?? '') + event.text;
    if (event.type === 'end') {
      record.usage = event.usage;
      record.timings = event.timings;
      record.pruning = event.pruning;
      milestones.endMs = performance.now();
      meter.end(event, reasons);
    }
    yield event;
  }
}

function promptText({ tokenizer }: LoadedModel, { prompts }: GenerationJob): string {
  return prompts.map(({ ids }) => tokenizer.decode(ids, { skipSpecialTokens: false })).join('\n');
}
