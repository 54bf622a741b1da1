/** K and V of one KV head: two arrays that grow and shrink in place. */
import { invariant } from '../errors.ts';
import type { BytePool } from './byte-pool.ts';
import { tryResize, wholePages } from './pages.ts';

/** K and V. */
const ARRAYS = 2;

/** Entries by which a head grows at most when it needs one more. */
export const LARGEST_STEP = 256;

/**
 * Slots to hold for `numEntries`. Depends on nothing but the number, so what a sequence occupies does not depend on
 * how it got there (but for {@link HeadCache.drop}). Steps grow from 64 to 256 entries: growing is rare, and at most a
 * quarter (or 64) is idle.
 */
function roundEntries(numEntries: number): number {
  const step = numEntries < 512 ? 64 : numEntries < 1024 ? 128 : LARGEST_STEP;
  return Math.ceil(numEntries / step) * step;
}

/** Bytes of one array of one head, either K or V. */
function arrayBytes(headDim: number, numEntries: number): number {
  return wholePages(roundEntries(numEntries) * headDim * Float32Array.BYTES_PER_ELEMENT);
}

/** Bytes of one entry, K and V. */
export function entryBytes(headDim: number): number {
  return ARRAYS * headDim * Float32Array.BYTES_PER_ELEMENT;
}

/** Bytes that one KV head occupies, K and V, when it holds `numEntries`. */
export function headBytes(headDim: number, numEntries: number): number {
  return ARRAYS * arrayBytes(headDim, numEntries);
}

/**
 * Entries of one KV head in slots `0..length-1`, keys after RoPE.
 *
 * Both arrays lie in resizable buffers: address space for `maxEntries` is set aside at once, memory is committed as it
 * is needed, and shrinking hands it back to the operating system immediately instead of at some later collection.
 *
 * **Views** from {@link keys} and {@link values} stay valid while the head grows (nothing moves). `truncate`, `keep` and
 * `free` end them: a view that reaches into returned memory becomes empty, one that does not may show other entries.
 * So take views afresh for every run, and never shrink a head while native code reads it.
 */
export class HeadCache {
  readonly headDim: number;
  readonly maxEntries: number;
  readonly #pool: BytePool;
  readonly #keyBuffer: ArrayBuffer;
  readonly #valueBuffer: ArrayBuffer;
  /** These two follow the length of their buffers. */
  readonly #keyData: Float32Array<ArrayBuffer>;
  readonly #valueData: Float32Array<ArrayBuffer>;
  #length = 0;
  #capacity = 0;

  constructor(pool: BytePool, headDim: number, maxEntries: number) {
    invariant(headDim > 0 && maxEntries >= 0, `a head of dimension ${headDim} with ${maxEntries} entries`);
    this.#pool = pool;
    this.headDim = headDim;
    this.maxEntries = maxEntries;
    const maxByteLength = arrayBytes(headDim, maxEntries);
    this.#keyBuffer = new ArrayBuffer(0, { maxByteLength });
    this.#valueBuffer = new ArrayBuffer(0, { maxByteLength });
    this.#keyData = new Float32Array(this.#keyBuffer);
    this.#valueData = new Float32Array(this.#valueBuffer);
  }

  get length(): number {
    return this.#length;
  }

  /** Entries that fit without asking the pool again. */
  get capacity(): number {
    return this.#capacity;
  }

  /** Resident bytes of K and V, equal to what the pool counts for this head. */
  get bytes(): number {
    return this.#keyBuffer.byteLength + this.#valueBuffer.byteLength;
  }

  /** Makes room for `numEntries` in total. False, and nothing changed, when the pool or the system has no memory. */
  reserve(numEntries: number): boolean {
    invariant(numEntries <= this.maxEntries, `reserved ${numEntries} of at most ${this.maxEntries} entries`);
    if (numEntries <= this.#capacity) return true;
    const addedBytes = headBytes(this.headDim, numEntries) - this.bytes;
    const addedBuffers = this.#capacity === 0 ? ARRAYS : 0;
    if (!this.#pool.tryReserve(addedBytes, addedBuffers)) return false;
    if (!this.#resize(numEntries)) {
      this.#pool.release(addedBytes, addedBuffers);
      return false;
    }
    return true;
  }

  /** Adds n entries behind the newest; `keys` and `values` are [n, headDim]. Room must have been reserved. */
  append(keys: Float32Array, values: Float32Array): void {
    const numEntries = keys.length / this.headDim;
    invariant(
      Number.isInteger(numEntries) && values.length === keys.length,
      `appended ${keys.length} key and ${values.length} value elements to a head of dimension ${this.headDim}`,
    );
    this.#assertRoom(numEntries);
    const offset = this.#length * this.headDim;
    this.#keyData.set(keys, offset);
    this.#valueData.set(values, offset);
    this.#length += numEntries;
  }

  /**
   * Adds one entry for each row of `rows` [n, width]: its key stands at column `keyColumn`, its value at
   * `valueColumn`. Room must have been reserved.
   */
  appendColumns(rows: Float32Array, width: number, keyColumn: number, valueColumn: number): void {
    const { headDim } = this;
    const numEntries = rows.length / width;
    invariant(
      Number.isInteger(numEntries) && Math.max(keyColumn, valueColumn) + headDim <= width,
      `appended columns ${keyColumn} and ${valueColumn} of ${rows.length} elements in rows of ${width}`,
    );
    this.#assertRoom(numEntries);
    const offset = this.#length * headDim;
    copyColumns(this.#keyData, offset, rows, width, keyColumn, headDim);
    copyColumns(this.#valueData, offset, rows, width, valueColumn, headDim);
    this.#length += numEntries;
  }

  #assertRoom(numEntries: number): void {
    invariant(
      this.#length + numEntries <= this.#capacity,
      `appended ${numEntries} entries to ${this.#length}, reserved were ${this.#capacity}`,
    );
  }

  /** Keys of slots `from..to-1`, [to - from, headDim], without a copy. */
  keys(from = 0, to = this.#length): Float32Array<ArrayBuffer> {
    return this.#view(this.#keyBuffer, from, to);
  }

  /** Values of slots `from..to-1`, [to - from, headDim], without a copy. */
  values(from = 0, to = this.#length): Float32Array<ArrayBuffer> {
    return this.#view(this.#valueBuffer, from, to);
  }

  /** Forgets the newest entries, so that `length` are left, and returns all memory beyond them. */
  truncate(length: number): void {
    invariant(length >= 0 && length <= this.#length, `truncated ${this.#length} entries to ${length}`);
    this.#length = length;
    this.shrink();
  }

  /** Evicts every slot but `indices` (ascending); survivors move to slots `0..indices.length-1` in that order. */
  keep(indices: ArrayLike<number>): void {
    const numKept = indices.length;
    let previous = -1;
    for (let i = 0; i < numKept; i++) {
      const index = indices[i];
      invariant(
        index !== undefined && Number.isInteger(index) && index > previous && index < this.#length,
        `kept slot ${index} after ${previous} of ${this.#length}`,
      );
      previous = index;
    }
    for (let start = 0; start < numKept;) {
      const end = endOfRun(indices, start);
      const from = indices[start] ?? 0;
      this.#move(start, from, from + end - start);
      start = end;
    }
    this.#length = numKept;
    this.shrink();
  }

  /** Evicts one slot and keeps its memory for the entry that comes next: a window slides without resizing anything. */
  drop(slot: number): void {
    invariant(slot >= 0 && slot < this.#length, `dropped slot ${slot} of ${this.#length}`);
    this.#move(slot, slot + 1, this.#length);
    this.#length--;
  }

  /** Appends the first `numEntries` of `source`. Room must have been reserved. */
  copyFrom(source: HeadCache, numEntries: number): void {
    this.append(source.keys(0, numEntries), source.values(0, numEntries));
  }

  /** Returns the memory beyond `numEntries` slots (never less than the entries present). */
  shrink(numEntries = this.#length): void {
    invariant(numEntries >= this.#length, `shrunk ${this.#length} entries to ${numEntries} slots`);
    if (roundEntries(numEntries) >= this.#capacity) return;
    const bytesBefore = this.bytes;
    invariant(this.#resize(numEntries), 'memory can always be given back');
    this.#pool.release(bytesBefore - this.bytes, this.#capacity === 0 ? ARRAYS : 0);
  }

  /** Forgets everything and returns all memory now. May be called again. */
  free(): void {
    this.truncate(0);
  }

  /** False, and sizes as before, when the system refuses. */
  #resize(numEntries: number): boolean {
    const bytesBefore = this.#keyBuffer.byteLength;
    const bytes = arrayBytes(this.headDim, numEntries);
    if (!tryResize(this.#keyBuffer, bytes) || !tryResize(this.#valueBuffer, bytes)) {
      this.#keyBuffer.resize(bytesBefore);
      return false;
    }
    this.#capacity = roundEntries(numEntries);
    return true;
  }

  #view(buffer: ArrayBuffer, from: number, to: number): Float32Array<ArrayBuffer> {
    invariant(
      from >= 0 && from <= to && to <= this.#length,
      `viewed slots ${from}..${to} of ${this.#length}`,
    );
    // The explicit length matters: an array without one would change its length with the buffer.
    const rowBytes = this.headDim * Float32Array.BYTES_PER_ELEMENT;
    return new Float32Array(buffer, from * rowBytes, (to - from) * this.headDim);
  }

  /** Moves slots `from..end-1` down to `to`. */
  #move(to: number, from: number, end: number): void {
    if (to === from) return;
    const { headDim } = this;
    this.#keyData.copyWithin(to * headDim, from * headDim, end * headDim);
    this.#valueData.copyWithin(to * headDim, from * headDim, end * headDim);
  }
}

/** Below this dimension a loop over a row's elements takes less time than a view of them. */
const SHORT_ROW = 32;

/** Copies columns `column..column + headDim - 1` of every row. */
function copyColumns(
  target: Float32Array,
  offset: number,
  rows: Float32Array,
  width: number,
  column: number,
  headDim: number,
): void {
  let to = offset;
  for (let from = column; from < rows.length; from += width) {
    if (headDim >= SHORT_ROW) target.set(rows.subarray(from, from + headDim), to);
    else for (let i = 0; i < headDim; i++) target[to + i] = rows[from + i] ?? 0;
    to += headDim;
  }
}

/** End of the run of consecutive numbers that begins at `indices[start]`. */
function endOfRun(indices: ArrayLike<number>, start: number): number {
  let end = start + 1;
  while (end < indices.length && indices[end] === (indices[end - 1] ?? 0) + 1) end++;
  return end;
}
