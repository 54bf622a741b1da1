/** Runs one request's prompts and choices on the engine and yields their text as it becomes certain. */
import { setMaxListeners } from 'node:events';
import { AppError, invariant } from '../errors.ts';
import type { GenerationRequest } from '../runtime/protocol.ts';
import { ClientGoneError } from './generation-job.ts';
import type { GenerationEvent, GenerationJob } from './generation-job.ts';
import { GenerationRun } from './generation-run.ts';
import type { OnToken } from './generation-run.ts';
import { merge } from './merge.ts';
import type { LoadedModel } from './model.ts';

export interface GenerateOptions {
  readonly onToken?: OnToken;
  /** Once aborted, every choice ends with reason `stop`. */
  readonly stopSignal?: AbortSignal | undefined;
}

/**
 * Leaving the generator early, or aborting the signal, cancels everything on the engine.
 * @throws AppError as the engine's error events say, `timeout`; ClientGoneError once the signal is aborted
 */
export async function* generate(
  model: LoadedModel,
  job: GenerationJob,
  clientSignal: AbortSignal,
  { onToken = () => undefined, stopSignal }: GenerateOptions = {},
): AsyncGenerator<GenerationEvent, void, void> {
  const abort = new AbortController();
  // A listener for each prompt.
  setMaxListeners(0, abort.signal);
  const onClientGone = () => {
    abort.abort(new ClientGoneError('the client closed the connection'));
  };
  if (clientSignal.aborted) onClientGone();
  clientSignal.addEventListener('abort', onClientGone);
  const deadline =
    job.maxTimeMs === null
      ? undefined
      : setTimeout(() => {
          abort.abort(
            new AppError('timeout', `the request took longer than max_time_ms (${job.maxTimeMs})`, {
              param: 'max_time_ms',
            }),
          );
        }, job.maxTimeMs);
  const requests = job.prompts.map((_, i) => engineRequest(job, i));
  const run = new GenerationRun(model, job, requests, onToken);
  const stop = () => {
    for (const { id, numChoices } of requests)
      for (let choice = 0; choice < numChoices; choice++) model.engine.stopChoice(id, choice);
  };
  stopSignal?.addEventListener('abort', stop);
  // The engine hears of the requests when the loop below asks for their first events.
  if (stopSignal?.aborted === true) setImmediate(stop);
  try {
    const sources = requests.map((request) => model.engine.generate(request, abort.signal));
    for await (const [prompt, event] of merge(sources, abort.signal)) yield* run.handle(prompt, event);
    yield run.end();
  } finally {
    clearTimeout(deadline);
    clientSignal.removeEventListener('abort', onClientGone);
    stopSignal?.removeEventListener('abort', stop);
    abort.abort();
  }
}

function engineRequest(job: GenerationJob, index: number): GenerationRequest {
  const prompt = job.prompts[index];
  invariant(prompt, `prompt ${index} exists`);
  return {
    id: `${job.id}/${index}`,
    promptIds: prompt.ids,
    numChoices: job.numChoices,
    sampling: job.sampling,
    maxTokens: prompt.maxTokens,
    minTokens: job.minTokens,
    stopTokenIds: job.stopTokenIds,
    promptLogprobs: job.promptLogprobs,
    priority: job.priority,
    cachePrompt: job.cachePrompt,
    reportProgress: job.reportProgress,
    pruning: job.pruning,
    constraint: job.constraint,
  };
}
