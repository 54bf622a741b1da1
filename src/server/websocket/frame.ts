/** Text frames from a client: which lane they are for, and what they ask. */
import { AppError, invalidField } from '../../errors.ts';
import { describe } from '../../validation.ts';
import { parseJson } from '../body.ts';
import type { Dialect } from './dialect.ts';

/** Name of a lane; null = that of frames which name none. */
export type StreamId = string | null;

export interface Frame {
  readonly kind: 'create' | 'cancel';
  readonly streamId: StreamId;
  /** Of the route, with `stream` set. */
  readonly body: Record<string, unknown>;
  readonly bytes: number;
}

const STREAM_ID = /^[A-Za-z0-9_.-]{1,256}$/;

/** A bad frame's error, and the lane that it named if that much could be read. */
export class FrameError extends Error {
  readonly streamId: StreamId;
  override readonly cause: AppError;

  constructor(cause: AppError, streamId: StreamId) {
    super(cause.message);
    this.cause = cause;
    this.streamId = streamId;
  }
}

/** @throws FrameError */
export function readFrame(text: string, dialect: Dialect): Frame {
  let streamId: StreamId = null;
  try {
    const { type, stream_id: id, ...body } = parseJson(text);
    if (id !== undefined && id !== null) {
      if (typeof id !== 'string' || !STREAM_ID.test(id))
        throw invalidField(
          'stream_id',
          `expected 1 to 256 of letters, digits and "_.-", got ${describe(id)}`,
        );
      streamId = id;
    }
    const kind = kindOf(type, dialect);
    return { kind, streamId, body: { ...body, stream: true }, bytes: Buffer.byteLength(text) };
  } catch (error) {
    if (error instanceof AppError) throw new FrameError(error, streamId);
    throw error;
  }
}

function kindOf(type: unknown, { createType, cancelType }: Dialect): Frame['kind'] {
  if (type === createType) return 'create';
  if (cancelType !== null && type === cancelType) return 'cancel';
  const valid = [createType, cancelType].filter((name) => name !== null).map((name) => JSON.stringify(name));
  throw invalidField('type', `expected ${valid.join(' or ')}, got ${describe(type)}`);
}
