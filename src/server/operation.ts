/** A generating route without its carrier: what HTTP and WebSockets hand to it, and what they get to send back. */
import type { z } from 'zod';
import { AppError } from '../errors.ts';
import type { ErrorBody } from '../errors.ts';
import { firstMistake } from '../validation.ts';
import type { RequestRecord } from './request-record.ts';

/** One request as operations see it. */
export interface Call {
  readonly requestId: string;
  /** Aborts when the client leaves. */
  readonly signal: AbortSignal;
  /** Aborts when what there is so far shall do: every choice ends with reason `stop`, the reply as usual. */
  readonly stopSignal?: AbortSignal;
  /** What the log line and the metrics will say of it. */
  readonly record: RequestRecord;
  /** Value of the header `x-coppice-pruning`. */
  readonly pruningHeader: string | undefined;
  /** Whose key it came with; null = no keys are configured. */
  readonly client: string | null;
  /** The carrier runs `release` once the request is over, however it ended. */
  onEnd(release: () => void): void;
}

/** A request that has been checked and admitted. Exactly one of `whole` and `stream` is called, once. */
export interface Generation {
  readonly isStreamed: boolean;
  /** Names of fields in the body that no one reads. */
  readonly ignoredFields: readonly string[];
  /** @throws AppError, or ClientGoneError once the call's signal is aborted */
  whole(): Promise<object>;
  /** Objects in the order in which they are due; leaving early cancels. @throws as `whole` */
  stream(): AsyncGenerator<object, void, void>;
  /** What a stream ends with in place of the rest. */
  errorObject(error: ErrorBody): object;
}

export interface Operation {
  /** How its stream looks as server-sent events. */
  readonly sse: SseFraming;
  /** Checks everything that can be checked before anything is sent. @throws AppError */
  prepare(body: Record<string, unknown>, call: Call): Promise<Generation>;
}

export interface SseFraming {
  frame(object: object): string;
  /** After the last object; empty = nothing. */
  readonly end: string;
}

/**
 * The body's fields as the schema has them, and names of those outside it.
 * @throws AppError `invalid_request` naming the field
 */
export function parseFields<T extends z.ZodObject>(
  schema: T,
  body: Record<string, unknown>,
): { fields: z.infer<T>; ignoredFields: string[] } {
  const parsed = schema.safeParse(body, { reportInput: true });
  if (!parsed.success) {
    const { path, message } = firstMistake(parsed.error);
    throw new AppError('invalid_request', path === '' ? message : `${path}: ${message}`, {
      param: path || null,
    });
  }
  const ignoredFields = Object.keys(body).filter((name) => !Object.hasOwn(schema.shape, name));
  return { fields: parsed.data, ignoredFields };
}
