/** The promise behind every byte that we report: what is freed leaves the process at once, without a collection. */
import { expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { checkIntegrity } from '../../src/kv/integrity.ts';
import { SequenceCache } from '../../src/kv/sequence-cache.ts';

const MIB = 2 ** 20;

function rssMib(): number {
  return process.memoryUsage().rss / MIB;
}

it('resident memory falls as soon as entries are evicted, truncated or freed', () => {
  const pool = new BytePool(300 * MIB);
  const cache = new SequenceCache(pool, Array(8).fill({ kvHeads: 2, headDim: 64 }), 32_768);
  const heads = cache.shape.flatMap((_, layer) => cache.heads(layer));
  const tile = new Float32Array(256 * 64).fill(1);
  const before = rssMib();

  expect(cache.reserve(25_600)).toBe(true);
  for (const head of heads) while (head.length < 25_600) head.append(tile, tile);
  const full = rssMib();
  expect(cache.bytes / MIB).toBe(200);
  expect(full - before).toBeGreaterThan(180);

  // Every fifth slot survives: 40 MiB.
  for (const head of heads) head.keep(Int32Array.from({ length: 5120 }, (_, i) => 5 * i));
  const kept = rssMib();
  expect(cache.bytes / MIB).toBe(40);
  expect(full - kept).toBeGreaterThan(130);
  checkIntegrity(pool, cache);

  cache.truncate(2560);
  expect(cache.bytes / MIB).toBe(20);
  expect(kept - rssMib()).toBeGreaterThan(10);

  cache.free();
  expect(rssMib() - before).toBeLessThan(30);
  checkIntegrity(pool);
});
