/** Assembles the routes and what stands around them; knows no socket. */
import { Hono } from 'hono';
import { AppError } from '../errors.ts';
import { accessLog } from './access-log.ts';
import { requireKey } from './auth.ts';
import type { AppContext, AppEnv, ServerContext } from './context.ts';
import { errorHandler } from './errors.ts';
import { checkOrigins } from './origins.ts';
import { requestId } from './request-id.ts';
import { countFailures } from './request-meter.ts';
import { recordRequest } from './request-record.ts';
import type { Route } from './route.ts';
import { routeTable } from './routes/table.ts';
import { traceRequests } from './tracing.ts';

export function createApp(context: ServerContext): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  app.use(recordRequest);
  app.use(requestId);
  app.use(accessLog(context.logger));
  app.use(countFailures(context));
  app.use(checkOrigins(context.gate.origins));
  const table = routeTable(context);
  app.use(requireKey(context.gate.keys, publicPaths(table)));
  if (context.tracing) app.use(traceRequests(context.tracing));
  app.onError(errorHandler(context.logger));
  for (const { method, path, handle } of table) app.on(method, path, handle);
  for (const path of new Set(table.map((route) => route.path))) {
    const methods = table.filter((route) => route.path === path).map((route) => route.method);
    app.all(path, refuseMethod(methods.flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))));
  }
  // Not `notFound`: what that throws passes the middleware as an exception, what a route throws as a reply.
  app.all('*', (c) => {
    throw new AppError('not_found', `no route ${c.req.method} ${c.req.path.slice(0, 200)}`);
  });
  return app;
}

/** What needs no key. */
function publicPaths(table: readonly Route[]): ReadonlySet<string> {
  return new Set(table.flatMap(({ path, isPublic }) => (isPublic === true ? [path] : [])));
}

function refuseMethod(methods: readonly string[]) {
  return (c: AppContext): never => {
    c.header('allow', methods.join(', '));
    throw new AppError(
      'method_not_allowed',
      `expected ${methods.join(' or ')} for ${c.req.path.slice(0, 200)}, got ${c.req.method}`,
    );
  };
}
