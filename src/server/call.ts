/** What one HTTP request is to the operation that answers it. */
import type { AppContext } from './context.ts';
import type { Call } from './operation.ts';
import { PRUNING_HEADER } from './pruning.ts';

/** @param left aborts when a reader of the stream leaves, which the request's own signal does not tell */
export function callOf(c: AppContext, left?: AbortSignal): Call {
  const record = c.get('record');
  return {
    requestId: c.get('requestId'),
    signal: left === undefined ? c.req.raw.signal : AbortSignal.any([c.req.raw.signal, left]),
    record,
    pruningHeader: c.req.header(PRUNING_HEADER),
    client: c.get('client') ?? null,
    onEnd: (release) => {
      record.onEnd(release);
    },
  };
}
