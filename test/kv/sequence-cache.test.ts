/** SequenceCache: all heads together or none, and nothing leaked when memory is refused midway. */
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { bytesFor, SequenceCache, type KvShape } from '../../src/kv/sequence-cache.ts';
import { fill, readEntries } from './fill.ts';

/** Uneven on purpose: pruned checkpoints have layers without attention and of other sizes. */
const SHAPE: KvShape = [
  { kvHeads: 2, headDim: 16 },
  { kvHeads: 0, headDim: 16 },
  { kvHeads: 1, headDim: 40 },
];

afterEach(() => {
  vi.restoreAllMocks();
});

describe('SequenceCache', () => {
  it('has the heads of its shape', () => {
    const cache = new SequenceCache(new BytePool(1e6), SHAPE, 100);
    expect([0, 1, 2].map((layer) => cache.heads(layer).map((head) => head.headDim))).toEqual([
      [16, 16],
      [],
      [40],
    ]);
    expect(() => cache.heads(3)).toThrow('invariant');
  });

  it('occupies what bytesFor says, and the pool agrees', () => {
    fc.assert(
      fc.property(fc.nat({ max: 1500 }), fc.nat({ max: 1500 }), (a, b) => {
        const pool = new BytePool(1e8);
        const cache = new SequenceCache(pool, SHAPE, 1500);
        fill(
          cache,
          Float32Array.from({ length: Math.max(a, b) }, (_, i) => i),
        );
        expect(cache.bytes).toBe(bytesFor(SHAPE, Math.max(a, b)));
        cache.truncate(Math.min(a, b));
        expect(cache.bytes).toBe(bytesFor(SHAPE, Math.min(a, b)));
        expect(pool.usedBytes).toBe(cache.bytes);
        expect(pool.usedBuffers).toBe(cache.numBuffers);
        cache.free();
        cache.free();
        expect(pool.usedBytes).toBe(0);
        expect(pool.usedBuffers).toBe(0);
      }),
      { numRuns: 40 },
    );
  });

  it('reserves all or nothing', () => {
    const pool = new BytePool(bytesFor(SHAPE, 128) - 1);
    const cache = new SequenceCache(pool, SHAPE, 1000);
    expect(cache.reserve(64)).toBe(true);
    expect(cache.reserve(128)).toBe(false);
    expect(pool.usedBytes).toBe(bytesFor(SHAPE, 64));
    expect(cache.heads(0).map((head) => head.capacity)).toEqual([64, 64]);
  });

  it('undoes the heads that grew when the pool runs out of buffers', () => {
    const pool = new BytePool(1e8, 5);
    const cache = new SequenceCache(pool, SHAPE, 1000);
    expect(cache.reserve(64)).toBe(false);
    expect(pool.usedBytes).toBe(0);
    expect(pool.usedBuffers).toBe(0);
  });

  it('undoes the heads that grew when the operating system refuses', () => {
    const pool = new BytePool(1e8);
    const cache = new SequenceCache(pool, SHAPE, 1000);
    fill(cache, new Float32Array(50));
    cache.reserve(100);
    // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its buffer below
    const { resize } = ArrayBuffer.prototype;
    let numGrown = 0;
    vi.spyOn(ArrayBuffer.prototype, 'resize').mockImplementation(function (this: ArrayBuffer, bytes) {
      if (bytes !== undefined && bytes > this.byteLength && ++numGrown > 3) throw new RangeError('no memory');
      resize.call(this, bytes);
    });
    expect(cache.reserve(900)).toBe(false);
    expect(numGrown).toBe(4);
    expect(pool.usedBytes).toBe(bytesFor(SHAPE, 100));
    expect(cache.bytes).toBe(pool.usedBytes);
    expect(cache.heads(0).map((head) => head.capacity)).toEqual([128, 128]);
  });

  it('forks a copy that shares nothing', () => {
    const pool = new BytePool(1e8);
    const cache = new SequenceCache(pool, SHAPE, 1000);
    fill(cache, Float32Array.of(1, 2, 3));
    const copy = cache.fork(2);
    if (!copy) throw new Error('there is memory');
    fill(copy, Float32Array.of(7));
    cache.truncate(1);
    expect(readEntries(copy)).toEqual([1, 2, 7]);
    cache.free();
    expect(readEntries(copy)).toEqual([1, 2, 7]);
    expect(pool.usedBytes).toBe(copy.bytes);
  });

  it('forks heads of different lengths whole when no number is given', () => {
    const pool = new BytePool(1e8);
    const cache = new SequenceCache(pool, SHAPE, 1000);
    fill(cache, Float32Array.of(1, 2, 3));
    cache.heads(0)[0]?.keep([0, 2]);
    const copy = cache.fork();
    expect(copy?.heads(0).map((head) => head.length)).toEqual([2, 3]);
    copy?.free();
    expect(() => cache.fork(3)).toThrow('invariant');
    expect(pool.usedBytes).toBe(cache.bytes);
  });

  it('forks nothing and takes nothing when the pool refuses bytes or buffers', () => {
    for (const pool of [new BytePool(2 * bytesFor(SHAPE, 64) - 1), new BytePool(1e8, 11)]) {
      const cache = new SequenceCache(pool, SHAPE, 1000);
      fill(cache, new Float32Array(60));
      expect(cache.fork(60)).toBeNull();
      expect(pool.usedBytes).toBe(cache.bytes);
      expect(pool.usedBuffers).toBe(6);
    }
  });

  it('throws when used after free', () => {
    const cache = new SequenceCache(new BytePool(1e8), SHAPE, 1000);
    cache.free();
    expect(() => cache.reserve(1)).toThrow('invariant');
    expect(() => cache.fork(0)).toThrow('invariant');
  });
});
