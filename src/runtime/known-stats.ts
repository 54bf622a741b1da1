/** The engine's state as it was told last, with totals that go on where a thread that died left them. */
import type { EngineStats } from './protocol.ts';

const NO_TOTALS = { preemptions: 0, promptTokens: 0, cachedTokens: 0, generatedTokens: 0 };

export class KnownStats {
  #last: EngineStats | null = null;
  /** Totals of threads that died: the next one counts from 0. */
  #carried: typeof NO_TOTALS = NO_TOTALS;

  /** Null before the engine told its state. */
  get last(): EngineStats | null {
    return this.#last;
  }

  note(told: EngineStats): EngineStats {
    const carried = this.#carried;
    this.#last = {
      ...told,
      preemptions: told.preemptions + carried.preemptions,
      promptTokens: told.promptTokens + carried.promptTokens,
      cachedTokens: told.cachedTokens + carried.cachedTokens,
      generatedTokens: told.generatedTokens + carried.generatedTokens,
    };
    return this.#last;
  }

  /** The thread died: what it held is gone, what it counted stays. */
  carry(): void {
    if (this.#last === null) return;
    this.#carried = this.#last;
    this.#last = {
      ...this.#last,
      running: 0,
      waiting: 0,
      parked: 0,
      kvBytes: 0,
      kvBytesByKind: { dense: 0, retrieval: 0, streaming: 0, pruned: 0 },
      prefixCacheBytes: 0,
    };
  }
}
