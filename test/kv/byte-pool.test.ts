/** The byte pool: exact limits, and no way to release what was never reserved. */
import { describe, expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { checkIntegrity } from '../../src/kv/integrity.ts';

describe('BytePool', () => {
  it('reserves up to the limit, to the byte, and refuses without counting', () => {
    const pool = new BytePool(100);
    expect(pool.tryReserve(60)).toBe(true);
    expect(pool.tryReserve(41)).toBe(false);
    expect(pool.usedBytes).toBe(60);
    expect(pool.tryReserve(40)).toBe(true);
    expect(pool.freeBytes).toBe(0);
    pool.release(100);
    expect(pool.usedBytes).toBe(0);
  });

  it('refuses buffers beyond their own limit although bytes are free', () => {
    const pool = new BytePool(100, 4);
    expect(pool.tryReserve(1, 4)).toBe(true);
    expect(pool.tryReserve(1, 1)).toBe(false);
    expect(pool.usedBytes).toBe(1);
    pool.release(1, 2);
    expect(pool.tryReserve(1, 2)).toBe(true);
  });

  it('throws on a release of more than is used and on impossible numbers', () => {
    const pool = new BytePool(100);
    pool.tryReserve(10);
    expect(() => {
      pool.release(11);
    }).toThrow('invariant');
    expect(() => {
      pool.release(0, 1);
    }).toThrow('invariant');
    expect(() => pool.tryReserve(-1)).toThrow('invariant');
    expect(() => pool.tryReserve(0.5)).toThrow('invariant');
    expect(() => new BytePool(Number.NaN)).toThrow('invariant');
    expect(pool.usedBytes).toBe(10);
  });
});

describe('checkIntegrity', () => {
  it('passes when the parts add up and throws when one is missing', () => {
    const pool = new BytePool(100);
    pool.tryReserve(30);
    expect(() => {
      checkIntegrity(pool, { bytes: 10 }, { bytes: 20 });
    }).not.toThrow();
    expect(() => {
      checkIntegrity(pool, { bytes: 10 });
    }).toThrow('counts 30 bytes, but 10 are held');
  });
});
