/** Which prompts are computed together, and whose tiles come next. */
import type { Model } from './model.ts';
import { PrefillPass } from './prefill.ts';
import type { PrefillRequest } from './prefill-lane.ts';
import type { PrunedRequest } from './pruning/pruned-lane.ts';
import type { Scheduler } from './scheduler.ts';
import type { Sequence } from './sequence.ts';

/** Rows that one prefill pass takes together; prompts that arrive together then start to decode together. */
const PASS_ROWS = 2048;
/** Most rows of the first prompt in a pass, */
const FIRST_LANE_ROWS = 1024;
/** and of each one behind it: short prompts need not wait until the long ones before them are computed. */
const OTHER_LANE_ROWS = 256;
/** Tiles between two decode steps: how long a prompt may hold up the others' next token. */
const TILES_PER_TURN = 2;

interface RunningPass {
  readonly pass: PrefillPass;
  /** Position up to which each member is computed in it. */
  readonly ends: Map<Sequence, number>;
}

/** What the engine does for the prompts of a pass. */
export interface PrefillHooks {
  /** Gives a waiting sequence its memory; false = it goes on waiting. */
  admit(sequence: Sequence): boolean;
  /** The lane that computes a sequence up to `end`. */
  lane(sequence: Sequence, end: number): PrefillRequest | PrunedRequest;
}

/** Policies that choose among all tokens of a prompt, layer by layer, need it to go through each layer as a whole. */
function choosesAmongAll({ request: { policies } }: Sequence): boolean {
  if (policies === null) return false;
  const { tokens, kv } = policies;
  return tokens !== null || kv?.kind === 'evict' || (kv?.kind === 'split' && kv.prefill === 'exact');
}

/**
 * Prompts share passes, in slices; one that cannot be sliced has a pass of its own, unless it is short. Both kinds take
 * turns, tile by tile, so that neither waits for the other.
 */
export class PrefillSchedule {
  readonly #model: Model;
  readonly #hooks: PrefillHooks;
  #shared: RunningPass | null = null;
  /** In the order in which they started; only the first advances. */
  #whole: RunningPass[] = [];

  constructor(model: Model, hooks: PrefillHooks) {
    this.#model = model;
    this.#hooks = hooks;
  }

  has(sequence: Sequence): boolean {
    return this.#passOf(sequence) !== undefined;
  }

  /** Takes a sequence out. False if it is in no pass: else some of its layers are ahead of others. */
  drop(sequence: Sequence): boolean {
    const running = this.#passOf(sequence);
    if (running === undefined) return false;
    running.ends.delete(sequence);
    if (sequence.cache !== null) running.pass.drop(sequence.cache);
    return true;
  }

  /** Starts what may start: sequences that run already and owe a prompt, then waiting ones in their order. */
  start(scheduler: Scheduler): void {
    const ends = new Map<Sequence, number>();
    let rows = 0;
    const isOpen = (): boolean => this.#shared === null && rows < PASS_ROWS;
    const join = (sequence: Sequence): void => {
      const owed = sequence.prefillEnd - sequence.numComputed;
      const most = ends.size === 0 ? FIRST_LANE_ROWS : OTHER_LANE_ROWS;
      const share = choosesAmongAll(sequence) ? owed : Math.min(owed, most);
      ends.set(sequence, sequence.numComputed + share);
      rows += share;
    };
    for (const sequence of scheduler.running)
      if (!sequence.isDecoding && !sequence.request.isPaused && !this.has(sequence) && isOpen())
        join(sequence);
    scheduler.start((sequence) => {
      const isWhole = choosesAmongAll(sequence) && sequence.prefillEnd > OTHER_LANE_ROWS;
      if ((!isWhole && !isOpen()) || !this.#hooks.admit(sequence)) return false;
      // A kept prefix may have left it little to do, but where it is admitted it must find its place.
      if (isWhole) this.#whole.push(this.#pass(new Map([[sequence, sequence.prefillEnd]])));
      else join(sequence);
      return true;
    });
    if (ends.size > 0) this.#shared = this.#pass(ends);
  }

  /** A bounded number of tiles. */
  async slice(): Promise<void> {
    for (let tile = 0; tile < TILES_PER_TURN; tile++) {
      const running = this.#next(tile);
      if (running === undefined) return;
      if (!(await running.pass.step())) this.#end(running);
    }
    for (const { ends, pass } of [...this.#whole, ...(this.#shared === null ? [] : [this.#shared])]) {
      for (const [sequence, end] of ends) {
        const rows = end - sequence.numComputed;
        sequence.request.progress(sequence.numComputed + Math.floor(rows * pass.share));
      }
    }
  }

  /** Both kinds in turn, or the one that there is. */
  #next(tile: number): RunningPass | undefined {
    const [whole] = this.#whole;
    return tile % 2 === 0 ? (this.#shared ?? whole) : (whole ?? this.#shared ?? undefined);
  }

  #pass(ends: Map<Sequence, number>): RunningPass {
    const lanes = [...ends].map(([sequence, end]) => this.#hooks.lane(sequence, end));
    return { ends, pass: new PrefillPass(this.#model, lanes) };
  }

  #passOf(sequence: Sequence): RunningPass | undefined {
    if (this.#shared?.ends.has(sequence) === true) return this.#shared;
    return this.#whole.find(({ ends }) => ends.has(sequence));
  }

  #end(running: RunningPass): void {
    if (running === this.#shared) this.#shared = null;
    this.#whole = this.#whole.filter((other) => other !== running);
    for (const [sequence, end] of running.ends) {
      // Only prompts that go on are left here: the others left the pass with their logits.
      sequence.numComputed = end;
      sequence.request.progress(sequence.numComputed);
    }
  }
}
