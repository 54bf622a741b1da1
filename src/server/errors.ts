/** Turns anything thrown by a route into the reply that the error table asks for. */
import type { ErrorHandler } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { AppError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { AppContext, AppEnv } from './context.ts';
import { ClientGoneError } from './generation-job.ts';

/** What a client may hear of an error: bugs keep their details for the log. */
export function toAppError(error: unknown, logger: Logger, requestId: string): AppError {
  if (error instanceof AppError && error.errorCode !== 'startup' && error.errorCode !== 'internal')
    return error;
  logger.error({ err: error, requestId }, 'internal error');
  return new AppError('internal', `internal error; the log knows more under request id ${requestId}`);
}

function replyWithError(c: AppContext, error: AppError): Response {
  c.get('record').error = error.label;
  if (error.errorCode === 'queue_full') c.header('retry-after', `${error.retryAfterSeconds ?? 1}`);
  return c.json({ error: error.toBody() }, error.status as ContentfulStatusCode);
}

/** What nginx logs for a client that left; nobody receives it. */
const CLIENT_CLOSED_REQUEST = 499;

export function errorHandler(logger: Logger): ErrorHandler<AppEnv> {
  return (error, c) => {
    if (error instanceof ClientGoneError || c.req.raw.signal.aborted) {
      c.get('record').wasCancelled = true;
      return new Response(null, { status: CLIENT_CLOSED_REQUEST });
    }
    return replyWithError(c, toAppError(error, logger, c.get('requestId')));
  };
}
