/** Carries a generating route over HTTP: a JSON body in, JSON or server-sent events out. */
import { nameIgnoredFields, readBody } from '../body.ts';
import { callOf } from '../call.ts';
import type { AppContext, ServerContext } from '../context.ts';
import { toAppError } from '../errors.ts';
import { ClientGoneError } from '../generation-job.ts';
import type { Generation, Operation } from '../operation.ts';
import { streamEvents } from '../sse.ts';

export function generateRoute(context: ServerContext, operation: Operation) {
  return async (c: AppContext): Promise<Response> => {
    context.models.checkOpen();
    const body = await readBody(c, context.config.limits.body_bytes);
    const left = new AbortController();
    const call = callOf(c, left.signal);
    const generation = await operation.prepare(body, call);
    nameIgnoredFields(c, generation.ignoredFields);
    if (!generation.isStreamed) return c.json(await generation.whole());
    const abort = () => {
      call.record.wasCancelled = true;
      left.abort();
    };
    return streamEvents(c, generation.stream(), {
      framing: operation.sse,
      pingMs: context.config.sse.ping_ms,
      onCancel: abort,
      toErrorObject: (error) => {
        if (!(error instanceof ClientGoneError)) return lastObject(error, context, c, generation);
        abort();
        return null;
      },
    });
  };
}

function lastObject(error: unknown, { logger }: ServerContext, c: AppContext, generation: Generation) {
  const appError = toAppError(error, logger, c.get('requestId'));
  c.get('record').error = appError.label;
  return generation.errorObject(appError.toBody());
}
