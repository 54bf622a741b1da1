/** What is noted of a request while it is answered, and who wants to know when it is over. */
import type { MiddlewareHandler } from 'hono';
import type { PruningReport, Timings, Usage } from '../runtime/protocol.ts';
import type { AppEnv } from './context.ts';
import type { GenerationJob } from './generation-job.ts';

/** When this thread learned how far the engine is, in ms of its clock: when a turn is over. */
export interface Milestones {
  submittedMs?: number;
  /** The first prompt's prefill has begun. */
  prefillMs?: number;
  /** Of any choice. */
  firstTokenMs?: number;
  endMs?: number;
}

export class RequestRecord {
  /** When the request arrived, in ms of this thread's clock. */
  readonly startedMs = performance.now();
  model?: string;
  /** The preset, or names of policies joined by `+`. */
  policy?: string;
  /** Once all of the request is checked and admitted. */
  job?: GenerationJob;
  readonly milestones: Milestones = {};
  usage?: Usage;
  timings?: Timings;
  pruning?: PruningReport | null;
  finishReasons?: readonly string[];
  /** Code of the error that ended the request, or its type when it has none. */
  error?: string;
  wasCancelled?: boolean;
  /** Only with `log.prompts`. */
  prompt?: string;
  completion?: string;
  /** Set by a streamed reply, which ends after the handlers. */
  streamEnd?: Promise<void>;
  readonly #listeners: (() => void)[] = [];

  /** `listener` runs once the last byte is sent, or nobody waits for it any more. */
  onEnd(listener: () => void): void {
    this.#listeners.push(listener);
  }

  end(): void {
    for (const listener of this.#listeners.splice(0)) listener();
  }
}

/** The outermost middleware: all others may note and listen. */
export const recordRequest: MiddlewareHandler<AppEnv> = async (c, next) => {
  const record = new RequestRecord();
  c.set('record', record);
  await next();
  if (record.streamEnd === undefined) record.end();
  else
    void record.streamEnd.then(() => {
      record.end();
    });
};
