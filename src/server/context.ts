/** What routes share, and what one request carries through the middleware. */
import type { Context } from 'hono';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import type { Presets } from '../policies/index.ts';
import { Admissions } from './admission.ts';
import { Gate } from './gate.ts';
import { ImageSource } from './images/image-source.ts';
import { Metrics } from './metrics.ts';
import type { ModelPool } from './model-pool.ts';
import type { RequestRecord } from './request-record.ts';
import { ResponseStore } from './responses/store.ts';
import type { ResponseMemory } from './responses/store.ts';
import type { Tracing } from './tracing.ts';

/** What a server is made of. */
export interface ServerOptions {
  readonly config: Config;
  readonly logger: Logger;
  readonly models: ModelPool;
  readonly presets: Presets;
  /** Absent or null = none. */
  readonly tracing?: Tracing | null;
}

export interface ServerContext extends ServerOptions {
  /** Who need not wait too long. */
  readonly admissions: Admissions;
  /** Who may call. */
  readonly gate: Gate;
  readonly images: ImageSource;
  readonly metrics: Metrics;
  /** Responses that can be continued. */
  readonly responses: ResponseMemory;
}

/** @throws AppError `startup` for keys that cannot be read */
export function createServerContext(options: ServerOptions): ServerContext {
  const { config, logger, models } = options;
  return {
    ...options,
    admissions: new Admissions(config),
    gate: new Gate(config, logger),
    images: new ImageSource(config),
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
