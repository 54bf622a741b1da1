/** The auxiliary cache of a sequence: hidden states of pruned tokens, at the layer where they stopped. */
import { invariant } from '../errors.ts';
import type { BytePool } from './byte-pool.ts';
import { tryResize, wholePages } from './pages.ts';

/** Rows by which a layer grows: of common hidden sizes they make whole pages. */
const STEP_ROWS = 16;

/**
 * Bytes that the rows of one layer occupy, in steps of equal size: the same rows spread over n layers occupy at most
 * n - 1 steps more.
 */
export function auxBytes(rowSize: number, numRows: number): number {
  const stepBytes = wholePages(STEP_ROWS * rowSize * Float32Array.BYTES_PER_ELEMENT);
  return Math.ceil(numRows / STEP_ROWS) * stepBytes;
}

/** Rows of one layer in slots `0..size-1`, in an array that grows and shrinks in place. */
class AuxRows {
  readonly #rowSize: number;
  readonly #buffer: ArrayBuffer;
  /** Follows the length of its buffer. */
  readonly #data: Float32Array<ArrayBuffer>;
  /** By slot. */
  readonly #positions: number[] = [];
  /** By position. */
  readonly #slots = new Map<number, number>();

  constructor(rowSize: number, maxRows: number) {
    this.#rowSize = rowSize;
    this.#buffer = new ArrayBuffer(0, { maxByteLength: auxBytes(rowSize, maxRows) });
    this.#data = new Float32Array(this.#buffer);
  }

  get size(): number {
    return this.#positions.length;
  }

  get bytes(): number {
    return this.#buffer.byteLength;
  }

  /** By slot. */
  get positions(): Int32Array {
    return Int32Array.from(this.#positions);
  }

  /** [size, rowSize], a view that the next change ends. */
  get rows(): Float32Array {
    return this.#data.subarray(0, this.size * this.#rowSize);
  }

  has(position: number): boolean {
    return this.#slots.has(position);
  }

  /** False, and the size as before, when the system refuses. */
  resize(bytes: number): boolean {
    return tryResize(this.#buffer, bytes);
  }

  push(positions: Int32Array, rows: Float32Array): void {
    this.#data.set(rows, this.size * this.#rowSize);
    for (const position of positions) {
      invariant(!this.#slots.has(position), `position ${position} stops at a layer once`);
      this.#slots.set(position, this.size);
      this.#positions.push(position);
    }
  }

  /** Moves a row out; the last one takes its slot. */
  take(position: number, target: Float32Array): void {
    const slot = this.#slots.get(position);
    invariant(slot !== undefined, `position ${position} stopped at this layer`);
    const rowSize = this.#rowSize;
    target.set(this.#data.subarray(slot * rowSize, (slot + 1) * rowSize));
    this.#slots.delete(position);
    const last = this.#positions.pop() ?? position;
    if (last === position) return;
    this.#data.copyWithin(slot * rowSize, this.size * rowSize, (this.size + 1) * rowSize);
    this.#positions[slot] = last;
    this.#slots.set(last, slot);
  }
}

/** Whoever holds it must call {@link free} once it is done. */
export class AuxCache {
  readonly #pool: BytePool;
  readonly #rowSize: number;
  readonly #maxRows: number;
  readonly #layers = new Map<number, AuxRows>();

  /** `rowSize` = elements of a row; a layer holds at most `maxRows`. */
  constructor(pool: BytePool, rowSize: number, maxRows: number) {
    this.#pool = pool;
    this.#rowSize = rowSize;
    this.#maxRows = maxRows;
  }

  /** Resident bytes, equal to what the pool counts for this cache. */
  get bytes(): number {
    return this.#sum(({ bytes }) => bytes);
  }

  /** Bytes of the rows: what {@link bytes} is before it is rounded. */
  get rowBytes(): number {
    return this.#sum(({ size }) => size) * this.#rowSize * Float32Array.BYTES_PER_ELEMENT;
  }

  /** Buffers that hold memory, as the pool counts them. */
  get numBuffers(): number {
    return this.#sum(({ bytes }) => (bytes > 0 ? 1 : 0));
  }

  /** Makes room for `numRows` more rows of a layer. False, and nothing changed, when there is no memory. */
  reserve(layer: number, numRows: number): boolean {
    if (numRows === 0) return true;
    const own = this.#layers.get(layer) ?? new AuxRows(this.#rowSize, this.#maxRows);
    const size = own.size + numRows;
    invariant(this.#rowSize > 0, 'rows have elements');
    invariant(size <= this.#maxRows, `reserved ${size} of at most ${this.#maxRows} rows`);
    this.#layers.set(layer, own);
    const bytes = auxBytes(this.#rowSize, size);
    const addedBytes = bytes - own.bytes;
    if (addedBytes <= 0) return true;
    const addedBuffers = own.bytes === 0 ? 1 : 0;
    if (!this.#pool.tryReserve(addedBytes, addedBuffers)) return false;
    if (own.resize(bytes)) return true;
    this.#pool.release(addedBytes, addedBuffers);
    return false;
  }

  /** Keeps a copy of `rows` [positions, rowSize]. Room must have been reserved. */
  put(layer: number, positions: Int32Array, rows: Float32Array): void {
    if (positions.length === 0 && rows.length === 0) return;
    const own = this.#layers.get(layer);
    invariant(
      own !== undefined && auxBytes(this.#rowSize, own.size + positions.length) <= own.bytes,
      `room for ${positions.length} rows was reserved`,
    );
    invariant(rows.length === positions.length * this.#rowSize, 'every row has a position');
    own.push(positions, rows);
  }

  has(layer: number, position: number): boolean {
    return this.#layers.get(layer)?.has(position) ?? false;
  }

  /**
   * Takes rows out and gives their memory back: their tokens are computed from there on, and never again.
   * @returns [positions, rowSize]
   */
  take(layer: number, positions: Int32Array): Float32Array {
    const rowSize = this.#rowSize;
    const rows = new Float32Array(positions.length * rowSize);
    if (positions.length === 0) return rows;
    const own = this.#layers.get(layer);
    invariant(own !== undefined, `${positions.length} positions stopped at layer ${layer}`);
    positions.forEach((position, i) => {
      own.take(position, rows.subarray(i * rowSize, (i + 1) * rowSize));
    });
    this.#shrink(own, own.size);
    return rows;
  }

  /** Copies all rows of `source`. False when there is no memory; what is copied by then remains. */
  copyFrom(source: AuxCache): boolean {
    for (const [layer, { positions, rows }] of source.#layers) {
      if (!this.reserve(layer, positions.length)) return false;
      this.put(layer, positions, rows);
    }
    return true;
  }

  /** Forgets everything and returns all memory now. May be called again. */
  free(): void {
    const layers = [...this.#layers.values()];
    this.#layers.clear();
    for (const own of layers) this.#shrink(own, 0);
  }

  #shrink(own: AuxRows, numRows: number): void {
    const bytes = auxBytes(this.#rowSize, numRows);
    const freedBytes = own.bytes - bytes;
    if (freedBytes === 0) return;
    invariant(own.resize(bytes), 'memory can always be given back');
    this.#pool.release(freedBytes, bytes === 0 ? 1 : 0);
  }

  #sum(of: (own: AuxRows) => number): number {
    let sum = 0;
    for (const own of this.#layers.values()) sum += of(own);
    return sum;
  }
}
