/** What routes share, and what one request carries through the middleware. */
import type { Context } from 'hono';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import type { Presets } from '../policies/index.ts';
import type { Metrics } from './metrics.ts';
import type { ModelPool } from './model-pool.ts';
import type { RequestRecord } from './request-record.ts';
import type { ResponseMemory } from './responses/store.ts';

/** What an app is made of. */
export interface AppOptions {
  readonly config: Config;
  readonly logger: Logger;
  readonly models: ModelPool;
  readonly presets: Presets;
}

export interface ServerContext extends AppOptions {
  readonly metrics: Metrics;
  /** Responses that can be continued. */
  readonly responses: ResponseMemory;
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
