/** Places and memory of running sequences: who gets some, and from whom it is taken when there is none. */
import { invariant } from '../errors.ts';
import type { SequenceCache } from '../kv/sequence-cache.ts';
import type { Memory } from './memory.ts';
import type { PrefillSchedule } from './prefill-schedule.ts';
import type { RowRoom } from './pruning/pruned-lane.ts';
import type { Scheduler } from './scheduler.ts';
import type { Sequence } from './sequence.ts';

export interface RoomOptions {
  readonly memory: Memory;
  readonly scheduler: Scheduler;
  readonly prefill: PrefillSchedule;
  /** A sequence needs more memory than there is even for it alone. */
  readonly onTooLarge: (sequence: Sequence) => void;
}

export class Room {
  readonly #memory: Memory;
  readonly #scheduler: Scheduler;
  readonly #prefill: PrefillSchedule;
  readonly #onTooLarge: (sequence: Sequence) => void;
  #preemptions = 0;

  constructor({ memory, scheduler, prefill, onTooLarge }: RoomOptions) {
    this.#memory = memory;
    this.#scheduler = scheduler;
    this.#prefill = prefill;
    this.#onTooLarge = onTooLarge;
  }

  /** Sequences that gave up what they held so far, parked ones included. */
  get preemptions(): number {
    return this.#preemptions;
  }

  /** Parks what is paused as long as others wait for a place. */
  clear(): void {
    while (this.#scheduler.isCrowded && this.#parkOne());
  }

  /** A cache for a sequence that is to start. False if there is no room for it now. */
  open(sequence: Sequence): boolean {
    while (!this.#memory.open(sequence, this.#scheduler.running)) if (!this.#parkOne()) return false;
    return true;
  }

  /** Those that decode next, each with room for its next entry; the least urgent ones are preempted if there is none. */
  forDecoding(): Sequence[] {
    const decoding = this.#scheduler.running.filter(
      (sequence) => !sequence.request.isPaused && !this.#prefill.has(sequence) && sequence.isDecoding,
    );
    for (const sequence of decoding) {
      const { cache, pruning } = sequence;
      if (cache === null) continue;
      this.#preemptUntil(sequence, () =>
        pruning === null
          ? this.#memory.reserve(cache, sequence.numComputed + 1)
          : this.#memory.reserveMore(cache, 1),
      );
    }
    return decoding.filter((sequence) => sequence.cache !== null);
  }

  /** Room for rows of a pruned sequence, layer by layer, for as long as it need not go itself. */
  forRows(sequence: Sequence): RowRoom {
    const grow = (reserve: (cache: SequenceCache) => boolean): boolean => {
      const { cache } = sequence;
      return cache !== null && this.#preemptUntil(sequence, () => reserve(cache));
    };
    return {
      reserve: (layer, numRows) => grow((cache) => this.#memory.reserveMore(cache, numRows, layer)),
      reserveAux: (layer, numRows) => grow((cache) => this.#memory.reserveAux(cache, numRows, layer)),
    };
  }

  /** A copy of what is computed and a place for a further choice. False, and perhaps a copy, if there is no room. */
  join(source: Sequence, other: Sequence): boolean {
    const parks = (): boolean => !source.request.isPaused && this.#parkOne();
    while (!this.#memory.fork(source, other)) if (!parks()) return false;
    while (!this.#scheduler.join(other)) if (!parks()) return false;
    return true;
  }

  /** Takes a sequence out of everything and frees or keeps its cache. */
  leave(sequence: Sequence): void {
    // In a pass some layers are ahead of others: that cache is of no use to anybody.
    const wasInPass = this.#prefill.drop(sequence);
    this.#scheduler.remove(sequence);
    if (wasInPass) sequence.releaseCache();
    else this.#memory.close(sequence);
  }

  /** Parks paused sequences, then preempts others, least urgent first, until `grow` succeeds. False if the sequence had to go itself. */
  #preemptUntil(sequence: Sequence, grow: () => boolean): boolean {
    while (sequence.cache !== null && !grow()) {
      if (this.#parkOne()) continue;
      const victim = this.#scheduler.victim();
      invariant(victim !== undefined, 'a running sequence can be preempted');
      if (victim === sequence && this.#scheduler.running.length === 1) this.#onTooLarge(sequence);
      else this.#preempt(victim);
    }
    return sequence.cache !== null;
  }

  #preempt(sequence: Sequence): void {
    this.#preemptions++;
    this.#prefill.drop(sequence);
    this.#scheduler.remove(sequence);
    sequence.releaseCache();
    this.#scheduler.enqueue(sequence);
  }

  /** Takes place and memory from a paused sequence; what it has computed is kept like a finished one's. False if there is none. */
  #parkOne(): boolean {
    const victim = this.#scheduler.pausedVictim();
    if (victim === undefined) return false;
    this.#preemptions++;
    this.leave(victim);
    this.#scheduler.enqueue(victim);
    return true;
  }
}
