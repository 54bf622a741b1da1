/**
 * Decides who runs. Synchronous and deterministic, without a clock, never sees a tensor: sequences wait, run, and
 * leave. There is no prefill phase here, only tokens still owed.
 */
import type { Sequence } from './sequence.ts';

/** Before = runs first: lower priority number, then arrival, then choice. */
function comesBefore(a: Sequence, b: Sequence): boolean {
  const byPriority = a.request.input.priority - b.request.input.priority;
  if (byPriority !== 0) return byPriority < 0;
  if (a.request.order !== b.request.order) return a.request.order < b.request.order;
  return a.choice < b.choice;
}

export class Scheduler {
  readonly #maxRunning: number;
  /** In the order in which they will start. */
  readonly #waiting: Sequence[] = [];
  readonly #running: Sequence[] = [];

  constructor(maxRunning: number) {
    this.#maxRunning = maxRunning;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  get running(): readonly Sequence[] {
    return this.#running;
  }

  /** New, or preempted and to be computed again: its place follows from its priority and arrival. */
  enqueue(sequence: Sequence): void {
    const behind = this.#waiting.findIndex((other) => comesBefore(sequence, other));
    this.#waiting.splice(behind === -1 ? this.#waiting.length : behind, 0, sequence);
  }

  /**
   * Moves waiting sequences to running, in order, until `admit` refuses one: nobody overtakes a sequence that waits
   * for memory.
   */
  start(admit: (sequence: Sequence) => boolean): void {
    while (this.#running.length < this.#maxRunning) {
      const [next] = this.#waiting;
      if (next === undefined || !admit(next)) return;
      this.#waiting.shift();
      this.#running.push(next);
    }
  }

  /** Lets a sequence run that needs no prefill (a further choice of a computed prompt). False if too many run. */
  join(sequence: Sequence): boolean {
    if (this.#running.length >= this.#maxRunning) return false;
    this.#running.push(sequence);
    return true;
  }

  /** Whose memory is taken first: the one that would be started last. */
  victim(): Sequence | undefined {
    return this.#running.reduce<Sequence | undefined>(
      (worst, sequence) => (worst === undefined || comesBefore(worst, sequence) ? sequence : worst),
      undefined,
    );
  }

  remove(sequence: Sequence): void {
    for (const list of [this.#waiting, this.#running]) {
      const index = list.indexOf(sequence);
      if (index !== -1) list.splice(index, 1);
    }
  }
}
