/** The one place where resident KV memory is counted and refused. */
import { invariant } from '../errors.ts';

/**
 * Every live buffer costs two memory mappings, and Linux gives a process 65,530 of them by default. Beyond that
 * the process aborts inside malloc, which nobody can catch, so the pool refuses long before.
 */
const DEFAULT_LIMIT_BUFFERS = 24_576;

/** Counts bytes and buffers; it allocates nothing itself. */
export class BytePool {
  readonly limitBytes: number;
  readonly limitBuffers: number;
  #usedBytes = 0;
  #usedBuffers = 0;

  constructor(limitBytes: number, limitBuffers = DEFAULT_LIMIT_BUFFERS) {
    invariant(
      Number.isSafeInteger(limitBytes) && limitBytes >= 0,
      `byte limit ${limitBytes} is a whole number`,
    );
    this.limitBytes = limitBytes;
    this.limitBuffers = limitBuffers;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get freeBytes(): number {
    return this.limitBytes - this.#usedBytes;
  }

  get usedBuffers(): number {
    return this.#usedBuffers;
  }

  /** Counts all of it or, returning false, nothing. `numBuffers` = buffers that become non-empty by it. */
  tryReserve(bytes: number, numBuffers = 0): boolean {
    invariant(Number.isSafeInteger(bytes) && bytes >= 0, `reserved ${bytes} bytes`);
    if (bytes > this.freeBytes || numBuffers > this.limitBuffers - this.#usedBuffers) return false;
    this.#usedBytes += bytes;
    this.#usedBuffers += numBuffers;
    return true;
  }

  /** `numBuffers` = buffers that are empty after it. */
  release(bytes: number, numBuffers = 0): void {
    invariant(Number.isSafeInteger(bytes) && bytes >= 0, `released ${bytes} bytes`);
    invariant(
      bytes <= this.#usedBytes && numBuffers <= this.#usedBuffers,
      `released ${bytes} bytes in ${numBuffers} buffers, but only ${this.#usedBytes} in ${this.#usedBuffers} are used`,
    );
    this.#usedBytes -= bytes;
    this.#usedBuffers -= numBuffers;
  }
}
