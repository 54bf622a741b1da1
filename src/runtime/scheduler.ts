/**
 * Decides who runs. Synchronous and deterministic, without a clock, never sees a tensor: sequences wait, run, and
 * leave. There is no prefill phase here, only tokens still owed.
 */
import type { LiveRequest, Sequence } from './sequence.ts';

/** Before = runs first: lower priority number, then arrival, then choice. */
function comesBefore(a: Sequence, b: Sequence): boolean {
  const byPriority = a.request.input.priority - b.request.input.priority;
  if (byPriority !== 0) return byPriority < 0;
  if (a.request.order !== b.request.order) return a.request.order < b.request.order;
  return a.choice < b.choice;
}

/** The one that would be started last. */
function lastOf(sequences: readonly Sequence[]): Sequence | undefined {
  return sequences.reduce<Sequence | undefined>(
    (worst, sequence) => (worst === undefined || comesBefore(worst, sequence) ? sequence : worst),
    undefined,
  );
}

export class Scheduler {
  readonly #maxRunning: number;
  /** In the order in which they will start. */
  readonly #waiting: Sequence[] = [];
  readonly #running: Sequence[] = [];
  /** Of paused requests: neither running nor in anybody's way. */
  readonly #parked: Sequence[] = [];

  constructor(maxRunning: number) {
    this.#maxRunning = maxRunning;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  /** Those of paused requests stay here as long as nobody needs their place or memory. */
  get running(): readonly Sequence[] {
    return this.#running;
  }

  get parked(): readonly Sequence[] {
    return this.#parked;
  }

  /** More want to run than may: somebody waits for a place. */
  get isCrowded(): boolean {
    return this.#waiting.length > 0 && this.#running.length + this.#waiting.length > this.#maxRunning;
  }

  /**
   * New, or preempted and to be computed again: its place follows from its priority and arrival. What belongs to a
   * paused request is parked.
   */
  enqueue(sequence: Sequence): void {
    if (sequence.request.isPaused) {
      this.#parked.push(sequence);
      return;
    }
    const behind = this.#waiting.findIndex((other) => comesBefore(sequence, other));
    this.#waiting.splice(behind === -1 ? this.#waiting.length : behind, 0, sequence);
  }

  /** After a request was paused or resumed: whatever of it waited is parked, or the other way round. */
  requeue(request: LiveRequest): void {
    const own = [...this.#waiting, ...this.#parked].filter((sequence) => sequence.request === request);
    for (const sequence of own) {
      this.remove(sequence);
      this.enqueue(sequence);
    }
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
    return lastOf(this.#running);
  }

  /** Who goes even before a victim: nobody reads what it says. */
  pausedVictim(): Sequence | undefined {
    return lastOf(this.#running.filter(({ request }) => request.isPaused));
  }

  remove(sequence: Sequence): void {
    for (const list of [this.#waiting, this.#running, this.#parked]) {
      const index = list.indexOf(sequence);
      if (index !== -1) list.splice(index, 1);
    }
  }
}
