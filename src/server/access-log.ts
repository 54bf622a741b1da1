/** One log line a request, written when its last byte is due. */
import type { MiddlewareHandler } from 'hono';
import type { Logger } from '../log.ts';
import type { AppEnv } from './context.ts';
import { PROBES } from './probes.ts';
import type { RequestRecord } from './request-record.ts';

export function accessLog(logger: Logger): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const record = c.get('record');
    record.onEnd(() => {
      const { method, path } = c.req;
      const fields = { method, path, status: c.res.status, ...logFields(record) };
      logger[PROBES.has(path) ? 'debug' : 'info']({ ...fields, requestId: c.get('requestId') }, 'request');
    });
    await next();
  };
}

/** Absent fields stay out of the line. */
export function logFields({
  startedMs,
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
    ms: Math.round((performance.now() - startedMs) * 10) / 10,
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
