/** One log line a request, written when its last byte is due. */
import type { MiddlewareHandler } from 'hono';
import type { Logger } from '../log.ts';
import type { Timings, Usage } from '../runtime/protocol.ts';
import type { AppEnv } from './context.ts';

/** What routes add to a request's log line; absent fields stay out of the line. */
export interface RequestRecord {
  /** When the request arrived, in ms of this thread's clock. */
  readonly startedMs: number;
  model?: string;
  /** The preset, or names of policies joined by `+`. */
  policy?: string;
  usage?: Usage;
  timings?: Timings;
  finishReasons?: readonly string[];
  /** Code of the error that ended the request, or its type when it has none. */
  error?: string;
  wasCancelled?: boolean;
  /** Only with `log.prompts`. */
  prompt?: string;
  completion?: string;
  /** Set by a streamed reply, which ends after the handlers: the line is written when this settles. */
  streamEnd?: Promise<void>;
}

export function accessLog(logger: Logger): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const startedMs = performance.now();
    const record: RequestRecord = { startedMs };
    c.set('record', record);
    await next();
    const { status } = c.res;
    const write = () => {
      const { method, path } = c.req;
      const ms = Math.round((performance.now() - startedMs) * 10) / 10;
      logger.info({ method, path, status, ms, ...summary(record), requestId: c.get('requestId') }, 'request');
    };
    if (record.streamEnd === undefined) write();
    else void record.streamEnd.then(write);
  };
}

function summary({
  model,
  policy,
  usage,
  timings,
  finishReasons,
  error,
  wasCancelled,
  prompt,
  completion,
}: RequestRecord) {
  return {
    ...(model !== undefined && { model }),
    ...(policy !== undefined && { policy }),
    ...(usage && {
      tokensIn: usage.promptTokens,
      tokensCached: usage.cachedTokens,
      tokensOut: usage.completionTokens,
    }),
    ...(timings && { ttftMs: Math.round(timings.ttftMs * 10) / 10 }),
    ...(finishReasons && { finish: finishReasons.join(',') }),
    ...(error !== undefined && { error }),
    ...(wasCancelled === true && { cancelled: true }),
    ...(prompt !== undefined && { prompt }),
    ...(completion !== undefined && { completion }),
  };
}
