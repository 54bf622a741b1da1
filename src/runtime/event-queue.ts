/** Hands the events of one request from the thread that pushes them to the loop that reads them. */
import type { EngineEvent } from './protocol.ts';

export class EventQueue implements AsyncIterable<EngineEvent> {
  readonly #events: EngineEvent[] = [];
  #wake: (() => void) | null = null;
  #ended = false;
  #complete = false;

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
    }
    this.#wake?.();
  }

  /** Nobody wants more: the reader's loop ends at once. */
  end(): void {
    this.#ended = true;
    this.#events.length = 0;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<EngineEvent, void> {
    for (;;) {
      let event;
      while ((event = this.#events.shift()) !== undefined) yield event;
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }
}
