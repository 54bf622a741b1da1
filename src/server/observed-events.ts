/** A job's events as they happen, noted on the way for the log line and the metrics. */
import { policyLabel } from '../policies/index.ts';
import type { ServerContext } from './context.ts';
import { generate } from './generation.ts';
import type { GenerationEvent, GenerationJob } from './generation-job.ts';
import type { LoadedModel } from './model.ts';
import type { Call } from './operation.ts';
import { RequestMeter } from './request-meter.ts';

/** Starts the job with the first `next()`; leaving early, or the call's signal, cancels it. @throws as `generate` */
export async function* observedEvents(
  context: ServerContext,
  { record, signal }: Call,
  model: LoadedModel,
  job: GenerationJob,
): AsyncGenerator<GenerationEvent, void, void> {
  const logsText = context.config.log.prompts;
  const reasons: string[] = [];
  record.policy = policyLabel(job.pruning);
  record.finishReasons = reasons;
  if (logsText) record.prompt = promptText(model, job);
  const meter = new RequestMeter(context.metrics, model.id, job, record.startedMs);
  const events = generate(model, job, signal, (choice, ms) => {
    meter.token(choice, ms);
  });
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

function promptText({ tokenizer }: LoadedModel, { prompts }: GenerationJob): string {
  return prompts.map(({ ids }) => tokenizer.decode(ids, { skipSpecialTokens: false })).join('\n');
}
