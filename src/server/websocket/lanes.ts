/** A connection's lanes: work in one goes first in, first out; lanes go side by side. */
import { AppError } from '../../errors.ts';
import type { Frame, StreamId } from './frame.ts';

/** Frames that may wait in all lanes of a connection; the server's own queue comes after. */
const MAX_PENDING_FRAMES = 64;

interface Lane {
  readonly pending: Frame[];
  /** Ends the running work with what it has so far. */
  stop: AbortController;
}

export interface LanesOptions {
  readonly maxStreams: number;
  /** Of frames that wait. */
  readonly maxPendingBytes: number;
  /** Answers one frame; never rejects. */
  readonly answer: (frame: Frame, stopSignal: AbortSignal) => Promise<void>;
  /** No lane has work any more. */
  readonly onIdle: () => void;
}

export class Lanes {
  readonly #options: LanesOptions;
  readonly #lanes = new Map<StreamId, Lane>();
  #numPending = 0;
  #pendingBytes = 0;

  constructor(options: LanesOptions) {
    this.#options = options;
  }

  get isIdle(): boolean {
    return this.#lanes.size === 0;
  }

  /** @throws AppError `websocket_stream_limit_reached`, `queue_full` */
  add(frame: Frame): void {
    const lane = this.#lanes.get(frame.streamId);
    if (lane === undefined) {
      this.#open(frame);
      return;
    }
    const { maxPendingBytes } = this.#options;
    if (this.#numPending >= MAX_PENDING_FRAMES || this.#pendingBytes + frame.bytes > maxPendingBytes) {
      const limits = `${MAX_PENDING_FRAMES} frames and ${maxPendingBytes} bytes`;
      throw new AppError('queue_full', `expected at most ${limits} to wait in a connection`);
    }
    this.#numPending++;
    this.#pendingBytes += frame.bytes;
    lane.pending.push(frame);
  }

  /** Stops what runs in a lane; what waits there is next. @throws AppError `unknown_stream` */
  stop(streamId: StreamId): void {
    const lane = this.#lanes.get(streamId);
    if (lane === undefined) {
      const named = streamId === null ? 'no stream_id' : JSON.stringify(streamId);
      throw new AppError('unknown_stream', `expected the stream_id of work that is not done, got ${named}`, {
        param: 'stream_id',
      });
    }
    lane.stop.abort();
  }

  /** Forgets what waits: nobody is there for the replies. */
  clear(): void {
    for (const { pending } of this.#lanes.values()) pending.length = 0;
  }

  #open(frame: Frame): void {
    const { maxStreams } = this.#options;
    if (this.#lanes.size >= maxStreams) {
      const message = `expected at most ${maxStreams} streams at once in a connection`;
      throw new AppError('websocket_stream_limit_reached', message, { param: 'stream_id' });
    }
    const lane: Lane = { pending: [], stop: new AbortController() };
    this.#lanes.set(frame.streamId, lane);
    void this.#run(frame, lane);
  }

  async #run(first: Frame, lane: Lane): Promise<void> {
    for (let frame: Frame | null = first; frame !== null; frame = this.#next(lane)) {
      lane.stop = new AbortController();
      await this.#options.answer(frame, lane.stop.signal);
    }
    this.#lanes.delete(first.streamId);
    if (this.isIdle) this.#options.onIdle();
  }

  #next({ pending }: Lane): Frame | null {
    const frame = pending.shift();
    if (frame === undefined) return null;
    this.#numPending--;
    this.#pendingBytes -= frame.bytes;
    return frame;
  }
}
