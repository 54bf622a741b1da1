/** Hands the events of one request from the thread that pushes them to the loop that reads them. */
import type { EngineEvent } from './protocol.ts';

/** How a reader that falls behind holds up whoever pushes. */
export interface Flow {
  /** Events that may lie unread: with more, `pause` is called; a quarter of them left, `resume`. */
  readonly limit: number;
  pause(): void;
  resume(): void;
}

/** Share of the limit at which pushing goes on: what is left is read while the next events are made. */
const RESUME_SHARE = 0.25;

export class EventQueue implements AsyncIterable<EngineEvent> {
  readonly #events: EngineEvent[] = [];
  readonly #flow: Flow | null;
  #wake: (() => void) | null = null;
  #ended = false;
  #complete = false;
  #paused = false;

  constructor(flow: Flow | null = null) {
    this.#flow = flow;
  }

  /** True once the request's last event has arrived. */
  get isComplete(): boolean {
    return this.#complete;
  }

  push(event: EngineEvent): void {
    if (this.#ended) return;
    this.#events.push(event);
    if (event.type === 'done' || event.type === 'error') {
      this.#complete = true;
      this.#ended = true;
    } else this.#pauseIfFull();
    this.#wake?.();
  }

  /** Nobody wants more: the reader's loop ends at once. */
  end(): void {
    this.#ended = true;
    this.#events.length = 0;
    this.#wake?.();
  }

  #pauseIfFull(): void {
    if (this.#flow === null || this.#paused || this.#events.length <= this.#flow.limit) return;
    this.#paused = true;
    this.#flow.pause();
  }

  /** The last event came, or the reader left: then there is nothing to resume. */
  #resumeIfRead(): void {
    if (!this.#paused || this.#ended || this.#flow === null) return;
    if (this.#events.length > this.#flow.limit * RESUME_SHARE) return;
    this.#paused = false;
    this.#flow.resume();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<EngineEvent, void> {
    for (;;) {
      let event;
      while ((event = this.#events.shift()) !== undefined) {
        this.#resumeIfRead();
        yield event;
      }
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }
}
