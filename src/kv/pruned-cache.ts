/** A sequence cache of which entries may be missing: knows where each entry stood in the text, and what it was worth. */
import { invariant } from '../errors.ts';
import type { HeadCache } from './head-cache.ts';
import type { SequenceCache } from './sequence-cache.ts';

const EMPTY = new Float32Array(0);

/** First index of an ascending list whose value is at least `value`. */
export function lowerBound(ascending: Int32Array, value: number): number {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ascending[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The integers begin..end-1. */
export function range(begin: number, end: number): Int32Array {
  return Int32Array.from({ length: end - begin }, (_, i) => begin + i);
}

/** One KV head: its entries, their positions, and a score for each that attention has added up. */
export class PrunedHead {
  readonly cache: HeadCache;
  #positions: Int32Array;
  #scores: Float32Array | null;
  #length: number;
  #numAppended: number;
  #isAscending = true;

  /** The cache holds positions 0..length-1. */
  constructor(cache: HeadCache, keepsScores: boolean) {
    this.cache = cache;
    this.#length = this.#numAppended = cache.length;
    this.#positions = range(0, this.#length);
    this.#scores = keepsScores ? new Float32Array(this.#length) : null;
  }

  get length(): number {
    return this.#length;
  }

  /** Entries that this head would hold if none had been evicted. */
  get numAppended(): number {
    return this.#numAppended;
  }

  /** False once a token was computed after one that stands behind it. */
  get isAscending(): boolean {
    return this.#isAscending;
  }

  /** [length], a view that the next change ends. */
  get positions(): Int32Array {
    return this.#positions.subarray(0, this.#length);
  }

  /** [length], a view that the next change ends; none if this cache keeps no scores. */
  get scores(): Float32Array {
    return this.#scores?.subarray(0, this.#length) ?? EMPTY;
  }

  /** As {@link HeadCache.appendColumns}; row i stands at `positions[i]`. */
  appendColumns(
    rows: Float32Array,
    width: number,
    keyColumn: number,
    valueColumn: number,
    positions: Int32Array,
  ): void {
    invariant(rows.length === positions.length * width, 'every appended row has a position');
    this.cache.appendColumns(rows, width, keyColumn, valueColumn);
    this.#grow(this.#length + positions.length);
    let previous = this.#length === 0 ? -1 : (this.#positions[this.#length - 1] ?? -1);
    for (const position of positions) {
      if (position <= previous) this.#isAscending = false;
      this.#positions[this.#length++] = previous = position;
    }
    this.#numAppended += positions.length;
  }

  /** Evicts every slot but `indices` (ascending) for good. */
  keep(indices: Int32Array): void {
    this.cache.keep(indices);
    indices.forEach((from, to) => {
      this.#positions[to] = this.#positions[from] ?? 0;
      if (this.#scores !== null) this.#scores[to] = this.#scores[from] ?? 0;
    });
    this.#length = indices.length;
    this.#scores?.fill(0, this.#length);
    this.#checkOrder();
  }

  /** As {@link HeadCache.drop}. */
  drop(slot: number): void {
    this.cache.drop(slot);
    this.#positions.copyWithin(slot, slot + 1, this.#length);
    this.#scores?.copyWithin(slot, slot + 1, this.#length);
    this.#length--;
    this.#scores?.fill(0, this.#length);
    this.#checkOrder();
  }

  /** Forgets the newest entries, as if they had never been there. */
  truncate(length: number): void {
    this.#numAppended -= this.#length - length;
    this.cache.truncate(length);
    this.#scores?.fill(0, length);
    this.#length = length;
    this.#checkOrder();
  }

  resetScores(): void {
    this.#scores?.fill(0);
  }

  /** The same over a copy of the cache. */
  clone(cache: HeadCache): PrunedHead {
    const copy = new PrunedHead(cache, this.#scores !== null);
    copy.#positions = this.#positions.slice();
    copy.#scores = this.#scores?.slice() ?? null;
    copy.#numAppended = this.#numAppended;
    copy.#isAscending = this.#isAscending;
    return copy;
  }

  /** What ascends still does when entries go. */
  #checkOrder(): void {
    this.#isAscending ||= this.positions.every(
      (position, i) => i === 0 || position > (this.#positions[i - 1] ?? 0),
    );
  }

  #grow(length: number): void {
    if (length <= this.#positions.length) return;
    const capacity = Math.max(64, length + (length >> 2));
    const positions = new Int32Array(capacity);
    positions.set(this.#positions);
    this.#positions = positions;
    if (this.#scores === null) return;
    const scores = new Float32Array(capacity);
    scores.set(this.#scores);
    this.#scores = scores;
  }
}

/** Does not own the memory: whoever holds the sequence's cache frees it. */
export class PrunedCache {
  readonly cache: SequenceCache;
  readonly #layers: readonly (readonly PrunedHead[])[];

  private constructor(cache: SequenceCache, layers: readonly (readonly PrunedHead[])[]) {
    this.cache = cache;
    this.#layers = layers;
  }

  /** Over a cache that is empty or holds an unpruned beginning. */
  static over(cache: SequenceCache, keepsScores: boolean): PrunedCache {
    const layers = cache.shape.map((_, layer) =>
      cache.heads(layer).map((head) => new PrunedHead(head, keepsScores)),
    );
    return new PrunedCache(cache, layers);
  }

  heads(layer: number): readonly PrunedHead[] {
    const heads = this.#layers[layer];
    invariant(heads !== undefined, `layer ${layer} of ${this.#layers.length}`);
    return heads;
  }

  get all(): readonly (readonly PrunedHead[])[] {
    return this.#layers;
  }

  /** The same over a copy of the cache with the same entries. */
  clone(cache: SequenceCache): PrunedCache {
    const layers = this.#layers.map((heads, layer) =>
      heads.map((head, j) => {
        const copy = cache.heads(layer)[j];
        invariant(copy !== undefined, 'a copy has the same heads');
        return head.clone(copy);
      }),
    );
    return new PrunedCache(cache, layers);
  }
}
