/** What routes share, and what one request carries through the middleware. */
import type { Context } from 'hono';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import type { Presets } from '../policies/index.ts';
import { Metrics } from './metrics.ts';
import type { ModelPool } from './model-pool.ts';
import type { RequestRecord } from './request-record.ts';
import { ResponseStore } from './responses/store.ts';
import type { ResponseMemory } from './responses/store.ts';

/** What a server is made of. */
export interface ServerOptions {
  readonly config: Config;
  readonly logger: Logger;
  readonly models: ModelPool;
  readonly presets: Presets;
}

export interface ServerContext extends ServerOptions {
  readonly metrics: Metrics;
  /** Responses that can be continued. */
  readonly responses: ResponseMemory;
}

export function createServerContext(options: ServerOptions): ServerContext {
  const { config, models } = options;
  return {
    ...options,
    metrics: new Metrics({ models, compat: config.metrics.compat }),
    responses: new ResponseStore(config.responses.max_bytes),
  };
}

export interface AppEnv {
  Variables: {
    requestId: string;
    record: RequestRecord;
    /** Whose key it came with; absent = no keys are configured. */
    client?: string;
  };
}

export type AppContext = Context<AppEnv>;
