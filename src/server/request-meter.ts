/** What one request adds to the metrics: while it runs, when it ends, and how. */
import type { MiddlewareHandler } from 'hono';
import type { PruningReport } from '../runtime/protocol.ts';
import type { AppEnv, ServerContext } from './context.ts';
import type { GenerationEvent, GenerationJob } from './generation-job.ts';
import type { Metrics } from './metrics.ts';
import { keptTokens, savedBytes } from './pruning-report.ts';
import { PROBES } from './probes.ts';
import type { RequestRecord } from './request-record.ts';

type End = Extract<GenerationEvent, { type: 'end' }>;

export class RequestMeter {
  readonly #metrics: Metrics;
  readonly #job: GenerationJob;
  readonly #arrivedMs: number;
  readonly #labels: { readonly model_name: string; readonly policy: string };
  readonly #interTokenLatency: { observe(seconds: number): void };
  readonly #lastTokenMs = new Map<number, number>();

  /** @param arrivedMs when the request reached the server, in ms of this thread's clock */
  constructor(metrics: Metrics, modelId: string, job: GenerationJob, arrivedMs: number) {
    this.#metrics = metrics;
    this.#job = job;
    this.#arrivedMs = arrivedMs;
    this.#labels = { model_name: modelId, policy: metrics.policyLabel(job.pruning) };
    this.#interTokenLatency = metrics.interTokenLatency.labels(this.#labels);
  }

  /** A token that counts arrived from the engine: a slow reader downstream must not look like a slow engine. */
  token(choice: number, arrivedMs: number): void {
    const lastMs = this.#lastTokenMs.get(choice);
    if (lastMs !== undefined) this.#interTokenLatency.observe((arrivedMs - lastMs) / 1000);
    this.#lastTokenMs.set(choice, arrivedMs);
  }

  /** All of it ran to its end; requests that failed or were left count nothing here, as they say no usage. */
  end({ usage, timings, pruning }: End, finishReasons: readonly string[]): void {
    const metrics = this.#metrics;
    const labels = this.#labels;
    const { model_name } = labels;
    for (const reason of finishReasons) metrics.successes.inc({ model_name, finish_reason: reason });
    metrics.promptTokens.inc({ model_name }, usage.promptTokens);
    metrics.generationTokens.inc({ model_name }, usage.completionTokens);
    metrics.requestPromptTokens.observe(labels, usage.promptTokens);
    metrics.requestGenerationTokens.observe(labels, usage.completionTokens);
    metrics.timeToFirstToken.observe(labels, timings.ttftMs / 1000);
    metrics.queueTime.observe(labels, timings.queueMs / 1000);
    metrics.prefillTime.observe(labels, timings.prefillMs / 1000);
    metrics.decodeTime.observe(labels, timings.decodeMs / 1000);
    metrics.e2eLatency.observe(labels, (performance.now() - this.#arrivedMs) / 1000);
    const { prompts, numChoices } = this.#job;
    // Choices of a prompt decode side by side, the decode times of prompts are summed up.
    const numGaps = usage.completionTokens / numChoices - prompts.length;
    if (numGaps > 0) metrics.timePerOutputToken.observe(labels, timings.decodeMs / 1000 / numGaps);
    this.#pruned(pruning);
  }

  #pruned(report: PruningReport | null): void {
    const families = this.#job.pruning?.families ?? {};
    if (Object.keys(families).length === 0) return;
    const metrics = this.#metrics;
    const labels = this.#labels;
    metrics.pruningRequests.inc(labels);
    const { tokens = null, kv = null } = report ?? {};
    if (tokens !== null) {
      const family = { ...labels, family: 'tokens' };
      metrics.pruningSeen.inc(family, tokens.seen);
      metrics.pruningKept.inc(family, keptTokens(tokens));
      metrics.revived.inc(labels, tokens.revived);
    }
    if (kv !== null) {
      const family = { ...labels, family: 'kv' };
      metrics.pruningSeen.inc(family, kv.entriesSeen);
      metrics.pruningKept.inc(family, kv.entriesKept);
      metrics.kvBytesSaved.inc(labels, savedBytes(kv));
    }
  }
}

/**
 * Counts requests that ended with an error, or because their client left before all was said. To a probe, not being ready
 * is an answer.
 */
export function countFailures(context: ServerContext): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const record = c.get('record');
    if (!PROBES.has(c.req.path))
      record.onEnd(() => {
        countFailure(context, record);
      });
    await next();
  };
}

export function countFailure({ metrics, models }: ServerContext, record: RequestRecord): void {
  const labels = { model_name: record.model ?? models.defaultId };
  if (record.error !== undefined) metrics.errors.inc({ ...labels, code: record.error });
  if (record.wasCancelled === true && record.usage === undefined) metrics.cancelled.inc(labels);
}
