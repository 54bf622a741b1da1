/** Things that are going on, for whoever has to wait until none is. */
import { withinMs } from './within-ms.ts';

export class LiveSet<T> {
  readonly #members = new Set<T>();
  #onEmpty: () => void = () => undefined;

  get size(): number {
    return this.#members.size;
  }

  [Symbol.iterator](): Iterator<T> {
    return this.#members.values();
  }

  add(member: T): void {
    this.#members.add(member);
  }

  delete(member: T): void {
    this.#members.delete(member);
    if (this.#members.size === 0) this.#onEmpty();
  }

  /** Settles when none is left, or after `timeoutMs`. */
  async emptied(timeoutMs: number): Promise<void> {
    if (this.#members.size === 0) return;
    await withinMs(new Promise<void>((resolve) => (this.#onEmpty = resolve)), timeoutMs);
  }
}
