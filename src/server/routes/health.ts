/** `GET /health`: the process lives. `GET /ready`: it takes work. */
import type { AppContext, ServerContext } from '../context.ts';

export function health(c: AppContext): Response {
  return c.json({ status: 'ok' });
}

export function ready({ models }: ServerContext) {
  return (c: AppContext): Response => {
    models.checkReady();
    return c.json({ status: 'ready' });
  };
}
