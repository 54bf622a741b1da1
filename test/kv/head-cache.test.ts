/** HeadCache against plain arrays: whatever is done to it, the slots hold what they should and the pool knows the bytes. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { HeadCache, headBytes } from '../../src/kv/head-cache.ts';

const MAX_ENTRIES = 2000;

/** Row of the entry with this number, [headDim]; keys and values differ in sign. */
function row(entry: number, headDim: number): number[] {
  return Array.from({ length: headDim }, (_, i) => entry + i / 128);
}

function rows(entries: readonly number[], headDim: number): Float32Array {
  return Float32Array.from(entries.flatMap((entry) => row(entry, headDim)));
}

function expectEntries(head: HeadCache, entries: readonly number[]): void {
  const expected = rows(entries, head.headDim);
  expect(head.length).toBe(entries.length);
  expect(Buffer.compare(bytesOf(head.keys()), bytesOf(expected))).toBe(0);
  expect(Buffer.compare(bytesOf(head.values()), bytesOf(expected.map((x) => -x)))).toBe(0);
}

function bytesOf(array: Float32Array): Buffer {
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength);
}

function append(head: HeadCache, entries: readonly number[]): void {
  const keys = rows(entries, head.headDim);
  head.append(
    keys,
    keys.map((x) => -x),
  );
}

function range(length: number, from = 0): number[] {
  return Array.from({ length }, (_, i) => from + i);
}

/** A head of 16 (64 entries = one page) with the given entries. */
function headWith(entries: readonly number[], pool = new BytePool(1e9)): HeadCache {
  const head = new HeadCache(pool, 16, MAX_ENTRIES);
  expect(head.reserve(entries.length)).toBe(true);
  append(head, entries);
  return head;
}

type Operation =
  | { readonly type: 'append' | 'reserve'; readonly head: number; readonly numEntries: number }
  | { readonly type: 'truncate' | 'fork' | 'drop'; readonly head: number; readonly share: number }
  | { readonly type: 'keep'; readonly head: number; readonly seed: readonly boolean[] }
  | { readonly type: 'free'; readonly head: number };

const head = fc.nat({ max: 2 });
const numEntries = fc.oneof(fc.nat({ max: 3 }), fc.nat({ max: 700 }));
const share = fc.double({ min: 0, max: 1, noNaN: true });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ type: fc.constant('append' as const), head, numEntries }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('reserve' as const), head, numEntries }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('truncate' as const), head, share }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('fork' as const), head, share }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('drop' as const), head, share }) },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('keep' as const),
      head,
      seed: fc.array(fc.boolean(), { minLength: 1, maxLength: 40 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('free' as const), head }) },
);

interface Modelled {
  readonly head: HeadCache;
  entries: number[];
}

/** Applies one operation to the real head and to the model beside it. */
function apply(all: Modelled[], op: Operation, pool: BytePool, nextEntry: number): void {
  const one = all[op.head]!;
  switch (op.type) {
    case 'reserve':
    case 'append': {
      const total = Math.min(MAX_ENTRIES, one.entries.length + op.numEntries);
      const addedBytes = Math.max(0, headBytes(one.head.headDim, total) - one.head.bytes);
      const fits = addedBytes <= pool.freeBytes;
      expect(one.head.reserve(total)).toBe(fits);
      if (!fits || op.type === 'reserve') return;
      const added = range(total - one.entries.length, nextEntry);
      append(one.head, added);
      one.entries = [...one.entries, ...added];
      return;
    }
    case 'truncate':
      one.entries = one.entries.slice(0, Math.floor(op.share * one.entries.length));
      one.head.truncate(one.entries.length);
      return;
    case 'keep': {
      const indices = range(one.entries.length).filter((i) => op.seed[i % op.seed.length]);
      one.entries = indices.map((i) => one.entries[i]!);
      one.head.keep(Int32Array.from(indices));
      return;
    }
    case 'drop': {
      const { bytes } = one.head;
      const slot = Math.min(Math.floor(op.share * one.entries.length), one.entries.length - 1);
      if (slot < 0) return;
      one.entries = one.entries.filter((_, i) => i !== slot);
      one.head.drop(slot);
      expect(one.head.bytes).toBe(bytes);
      return;
    }
    case 'fork': {
      const copy = all[(op.head + 1) % all.length]!;
      copy.head.free();
      copy.entries = [];
      const length = Math.floor(op.share * one.entries.length);
      if (!copy.head.reserve(length)) return;
      copy.head.copyFrom(one.head, length);
      copy.entries = one.entries.slice(0, length);
      return;
    }
    case 'free':
      one.head.free();
      one.entries = [];
  }
}

describe('HeadCache', () => {
  it('behaves like a plain array of entries, and the pool counts what is resident', () => {
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 25 }),
        fc.constantFrom(1, 16, 24),
        fc.constantFrom(150_000, 1_000_000),
        (operations, headDim, limitBytes) => {
          const pool = new BytePool(limitBytes);
          const all = range(3).map((): Modelled => ({
            head: new HeadCache(pool, headDim, MAX_ENTRIES),
            entries: [],
          }));
          operations.forEach((op, i) => {
            apply(all, op, pool, i * 1000);
            for (const { head: real, entries } of all) expectEntries(real, entries);
            expect(pool.usedBytes).toBe(all.reduce((sum, { head: real }) => sum + real.bytes, 0));
            expect(pool.usedBuffers).toBe(2 * all.filter(({ head: real }) => real.bytes > 0).length);
          });
          for (const { head: real } of all) real.free();
          expect(pool.usedBytes).toBe(0);
          expect(pool.usedBuffers).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('occupies the same bytes whatever its past, in whole pages, with little idle', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: MAX_ENTRIES }),
        fc.integer({ min: 1, max: 256 }),
        (length, headDim) => {
          const pool = new BytePool(1e9);
          const cache = new HeadCache(pool, headDim, MAX_ENTRIES);
          for (const n of [1, length / 2, length, MAX_ENTRIES].map(Math.ceil)) cache.reserve(n);
          const data = new Float32Array(length * headDim);
          cache.append(data, data);
          cache.shrink();
          expect(cache.bytes).toBe(headBytes(headDim, length));
          expect(cache.bytes % 4096).toBe(0);
          expect(cache.capacity - length).toBeLessThanOrEqual(Math.max(64, Math.min(256, length / 4)));
          cache.free();
        },
      ),
      { numRuns: 50 },
    );
  });

  it('keeps views of growing heads valid and shows the same memory, not a copy', () => {
    const cache = headWith(range(60));
    const view = cache.keys(10, 20);
    const address = view.buffer;
    expect(cache.reserve(1500)).toBe(true);
    append(cache, range(1400, 60));
    expect(view).toEqual(rows(range(10, 10), 16));
    expect(cache.keys().buffer).toBe(address);
    view[0] = 99;
    expect(cache.keys(10, 11)[0]).toBe(99);
  });

  it('empties views that reach into returned memory', () => {
    const cache = headWith(range(1000));
    const view = cache.values(900, 1000);
    cache.truncate(100);
    expect(view.length).toBe(0);
  });

  it('refuses what the pool refuses and stays as it was', () => {
    const pool = new BytePool(headBytes(16, 64));
    const cache = headWith(range(40), pool);
    expect(cache.reserve(64)).toBe(true);
    expect(cache.reserve(65)).toBe(false);
    expectEntries(cache, range(40));
    expect(cache.capacity).toBe(64);
    expect(pool.usedBytes).toBe(pool.limitBytes);
  });

  it.each([
    [
      'an append without room',
      (c: HeadCache) => {
        append(c, range(64));
      },
    ],
    [
      'an append of half an entry',
      (c: HeadCache) => {
        c.append(new Float32Array(8), new Float32Array(8));
      },
    ],
    [
      'keys without values',
      (c: HeadCache) => {
        c.append(new Float32Array(16), new Float32Array(0));
      },
    ],
    [
      'a reservation beyond maxEntries',
      (c: HeadCache) => {
        c.reserve(MAX_ENTRIES + 1);
      },
    ],
    [
      'a truncation to more',
      (c: HeadCache) => {
        c.truncate(11);
      },
    ],
    [
      'indices that repeat',
      (c: HeadCache) => {
        c.keep([1, 1]);
      },
    ],
    [
      'indices that descend',
      (c: HeadCache) => {
        c.keep([2, 1]);
      },
    ],
    [
      'indices past the end',
      (c: HeadCache) => {
        c.keep([0, 10]);
      },
    ],
    [
      'a view past the end',
      (c: HeadCache) => {
        c.keys(0, 11);
      },
    ],
  ])('throws on %s and changes nothing', (_name, misuse) => {
    const cache = headWith(range(10));
    expect(() => {
      misuse(cache);
    }).toThrow('invariant');
    expectEntries(cache, range(10));
  });
});
