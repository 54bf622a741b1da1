/** Assembles the routes and what stands around them; knows no socket. */
import { Hono } from 'hono';
import { AppError } from '../errors.ts';
import { accessLog } from './access-log.ts';
import type { AppContext, AppEnv, ServerContext } from './context.ts';
import { errorHandler } from './errors.ts';
import { requestId } from './request-id.ts';
import { chatCompletions } from './routes/chat-completions.ts';
import { completions } from './routes/completions.ts';
import { health, ready } from './routes/health.ts';
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
    { method: 'POST', path: '/v1/chat/completions', handle: chatCompletions(context) },
    { method: 'POST', path: '/v1/completions', handle: completions(context) },
    { method: 'GET', path: '/v1/models', handle: listModels(context) },
    { method: 'GET', path: '/v1/models/:id{.+}', handle: getModel(context) },
    { method: 'GET', path: '/v1/policies', handle: listPolicies(context) },
    { method: 'POST', path: '/tokenize', handle: tokenize(context) },
    { method: 'POST', path: '/detokenize', handle: detokenize(context) },
    { method: 'GET', path: '/health', handle: health },
    { method: 'GET', path: '/ready', handle: ready(context) },
  ];
}

export function createApp(context: ServerContext): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  app.use(requestId);
  app.use(accessLog(context.logger));
  app.onError(errorHandler(context.logger));
  const table = routes(context);
  for (const { method, path, handle } of table) app.on(method, path, handle);
  for (const path of new Set(table.map((route) => route.path))) {
    const methods = table.filter((route) => route.path === path).map((route) => route.method);
    app.all(path, refuseMethod(methods.flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))));
  }
  app.notFound((c) => {
    throw new AppError('not_found', `no route ${c.req.method} ${c.req.path.slice(0, 200)}`);
  });
  return app;
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
