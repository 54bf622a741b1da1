/** What routes share, and what one request carries through the middleware. */
import type { Context } from 'hono';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import type { RequestRecord } from './access-log.ts';
import type { Lifecycle } from './lifecycle.ts';
import type { Metrics } from './metrics.ts';

/** What an app is made of. */
export interface AppOptions {
  readonly config: Config;
  readonly logger: Logger;
  readonly lifecycle: Lifecycle;
}

export interface ServerContext extends AppOptions {
  readonly metrics: Metrics;
}

export interface AppEnv {
  Variables: { requestId: string; record: RequestRecord };
}

export type AppContext = Context<AppEnv>;
