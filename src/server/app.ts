/** Assembles the routes and what stands around them; knows no socket. */
import { Hono } from 'hono';
import { AppError } from '../errors.ts';
import { accessLog } from './access-log.ts';
import { requireKey } from './auth.ts';
import type { AppContext, AppEnv, ServerContext } from './context.ts';
import { errorHandler } from './errors.ts';
import { chatCompletions } from './operations/chat-completions.ts';
import { completions } from './operations/completions.ts';
import { responses } from './operations/responses.ts';
import { checkOrigins } from './origins.ts';
import { requestId } from './request-id.ts';
import { countFailures } from './request-meter.ts';
import { recordRequest } from './request-record.ts';
import { generateRoute } from './routes/generate.ts';
import { health, ready } from './routes/health.ts';
import { showMetrics } from './routes/metrics.ts';
import { getModel, listModels } from './routes/models.ts';
import { listPolicies } from './routes/policies.ts';
import { detokenize, tokenize } from './routes/tokenize.ts';

interface Route {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly handle: (c: AppContext) => Response | Promise<Response>;
}

function routes(context: ServerContext): Route[] {
  return [
    {
      method: 'POST',
      path: '/v1/chat/completions',
      handle: generateRoute(context, chatCompletions(context)),
    },
    { method: 'POST', path: '/v1/completions', handle: generateRoute(context, completions(context)) },
    {
      method: 'POST',
      path: '/v1/responses',
      handle: generateRoute(context, responses(context, context.responses)),
    },
    { method: 'GET', path: '/v1/models', handle: listModels(context) },
    { method: 'GET', path: '/v1/models/:id{.+}', handle: getModel(context) },
    { method: 'GET', path: '/v1/policies', handle: listPolicies(context) },
    { method: 'POST', path: '/tokenize', handle: tokenize(context) },
    { method: 'POST', path: '/detokenize', handle: detokenize(context) },
    { method: 'GET', path: '/health', handle: health },
    { method: 'GET', path: '/ready', handle: ready(context) },
    { method: 'GET', path: '/metrics', handle: showMetrics(context.metrics) },
  ];
}

export function createApp(context: ServerContext): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  app.use(recordRequest);
  app.use(requestId);
  app.use(accessLog(context.logger));
  app.use(countFailures(context));
  app.use(checkOrigins(context.gate.origins));
  app.use(requireKey(context.gate.keys, publicPaths(context)));
  app.onError(errorHandler(context.logger));
  const table = routes(context);
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
function publicPaths({ config }: ServerContext): ReadonlySet<string> {
  return new Set(['/health', '/ready', ...(config.metrics.public ? ['/metrics'] : [])]);
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
