/** Gives every request an id: the client's `x-request-id` if it is sane, else a new one. */
import { randomUUID } from 'node:crypto';
import type { MiddlewareHandler } from 'hono';
import type { AppEnv } from './context.ts';

export const REQUEST_ID_HEADER = 'x-request-id';

export function chooseRequestId(header: string | undefined): string {
  return header !== undefined && /^[A-Za-z0-9_.:-]{1,128}$/.test(header) ? header : `req-${randomUUID()}`;
}

export const requestId: MiddlewareHandler<AppEnv> = async (c, next) => {
  const id = chooseRequestId(c.req.header(REQUEST_ID_HEADER));
  c.set('requestId', id);
  c.header(REQUEST_ID_HEADER, id);
  await next();
};
