/** All that one sequence holds of the pool: every KV head of every layer, and its auxiliary cache. */
import { invariant } from '../errors.ts';
import { AuxCache } from './aux-cache.ts';
import type { BytePool } from './byte-pool.ts';
import { entryBytes, HeadCache, headBytes } from './head-cache.ts';

/** One item a layer; `kvHeads` 0 = a layer without attention. */
export type KvShape = readonly { readonly kvHeads: number; readonly headDim: number }[];

/** Bytes that a sequence of this shape occupies when every head holds `numEntries`, rounding included. */
export function bytesFor(shape: KvShape, numEntries: number): number {
  return shape.reduce((sum, { kvHeads, headDim }) => sum + kvHeads * headBytes(headDim, numEntries), 0);
}

/** Owns its heads: whoever holds it must call {@link free} once it is done. */
export class SequenceCache {
  readonly shape: KvShape;
  readonly maxEntries: number;
  readonly aux: AuxCache;
  readonly #pool: BytePool;
  readonly #hiddenSize: number;
  readonly #layers: readonly (readonly HeadCache[])[];
  readonly #heads: readonly HeadCache[];
  #freed = false;

  /** `hiddenSize` = elements of a row in the auxiliary cache; not needed where none is put. */
  constructor(pool: BytePool, shape: KvShape, maxEntries: number, hiddenSize = 0) {
    this.#pool = pool;
    this.#hiddenSize = hiddenSize;
    this.shape = shape;
    this.maxEntries = maxEntries;
    this.aux = new AuxCache(pool, hiddenSize, maxEntries);
    this.#layers = shape.map(({ kvHeads, headDim }) =>
      Array.from({ length: kvHeads }, () => new HeadCache(pool, headDim, maxEntries)),
    );
    this.#heads = this.#layers.flat();
  }

  /** KV heads of one layer; none when the layer has no attention. */
  heads(layer: number): readonly HeadCache[] {
    const heads = this.#layers[layer];
    invariant(heads !== undefined, `layer ${layer} of ${this.#layers.length}`);
    return heads;
  }

  /** Resident bytes, equal to what the pool counts for this sequence. */
  get bytes(): number {
    return this.#heads.reduce((sum, head) => sum + head.bytes, this.aux.bytes);
  }

  /** Slots in use, over all layers and heads. */
  get numEntries(): number {
    return this.#heads.reduce((sum, head) => sum + head.length, 0);
  }

  /** Bytes of the slots in use: what the heads' part of {@link bytes} is before it is rounded to whole pages. */
  get entryBytes(): number {
    return this.#heads.reduce((sum, head) => sum + head.length * entryBytes(head.headDim), 0);
  }

  /** Buffers that hold memory, as the pool counts them. */
  get numBuffers(): number {
    return 2 * this.#heads.filter((head) => head.capacity > 0).length + this.aux.numBuffers;
  }

  /** True when every head holds exactly `numEntries`: nothing was pruned and no layer is behind. */
  holdsExactly(numEntries: number): boolean {
    return this.#heads.every((head) => head.length === numEntries);
  }

  /**
   * Makes room for `count` more entries in every head, whatever its length, or in those of one layer. False when there
   * is no memory; what some heads have got by then remains theirs.
   */
  reserveMore(count: number, layer?: number): boolean {
    this.#assertLive();
    const heads = layer === undefined ? this.#heads : this.heads(layer);
    return heads.every((head) => head.reserve(head.length + count));
  }

  /** As {@link AuxCache.reserve}. */
  reserveAux(layer: number, numRows: number): boolean {
    this.#assertLive();
    return this.aux.reserve(layer, numRows);
  }

  /** Makes room for `numEntries` in every head. False, and nothing changed, when there is no memory. */
  reserve(numEntries: number): boolean {
    this.#assertLive();
    // Asked first because growing some heads and undoing it touches the memory that is given back.
    const addedBytes = this.#heads.reduce(
      (sum, head) => sum + Math.max(0, headBytes(head.headDim, numEntries) - head.bytes),
      0,
    );
    if (addedBytes > this.#pool.freeBytes) return false;
    const capacities = this.#heads.map((head) => head.capacity);
    if (this.#heads.every((head) => head.reserve(numEntries))) return true;
    this.#heads.forEach((head, i) => {
      head.shrink(capacities[i]);
    });
    return false;
  }

  /** Forgets the newest entries of every head, so that `numEntries` are left; no head may hold fewer. */
  truncate(numEntries: number): void {
    this.#assertLive();
    for (const head of this.#heads) head.truncate(numEntries);
  }

  /**
   * A copy of the first `numEntries` of every head (none may hold fewer); without a number, of all entries of
   * every head, whatever its length. Either way with all of the auxiliary cache. Null, and nothing taken, when there
   * is no memory.
   */
  fork(numEntries?: number): SequenceCache | null {
    this.#assertLive();
    const lengths = this.#heads.map((head) => {
      const length = numEntries ?? head.length;
      invariant(length <= head.length, `forked ${length} of ${head.length} entries`);
      return length;
    });
    const neededBytes = this.#heads.reduce(
      (sum, { headDim }, i) => sum + headBytes(headDim, lengths[i] ?? 0),
      this.aux.bytes,
    );
    if (neededBytes > this.#pool.freeBytes) return null;
    const copy = new SequenceCache(this.#pool, this.shape, this.maxEntries, this.#hiddenSize);
    if (!copy.#heads.every((head, i) => head.reserve(lengths[i] ?? 0)) || !copy.aux.copyFrom(this.aux)) {
      copy.free();
      return null;
    }
    this.#heads.forEach((head, i) => copy.#heads[i]?.copyFrom(head, lengths[i] ?? 0));
    return copy;
  }

  /** Returns all memory now. May be called again. */
  free(): void {
    if (this.#freed) return;
    for (const head of this.#heads) head.free();
    this.aux.free();
    this.#freed = true;
  }

  #assertLive(): void {
    invariant(!this.#freed, 'a freed sequence cache was used');
  }
}
