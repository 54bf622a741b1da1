/** Read-time selection: which blocks a row reads, and that it never misses itself. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { HeadCache } from '../../src/kv/head-cache.ts';
import type { ReadingPolicy } from '../../src/policies/index.ts';
import { BlockReader } from '../../src/runtime/pruning/block-reader.ts';

const HEAD_DIM = 4;
const attention = { queryHeads: 2, kvHeads: 1, headDim: HEAD_DIM };

/** Every entry's key is its slot; a block promises what the policy's `worth` says. */
function reader(policy: Partial<ReadingPolicy>, worth: (block: number) => number): BlockReader {
  const blockSize = policy.blockSize ?? 4;
  return new BlockReader({
    kind: 'read',
    budget: { keep: 0.5 },
    blockSize,
    denseLayers: 0,
    firstBlocks: 0,
    lastBlocks: 0,
    summarise: (keys) => Float32Array.of(keys[0]! / blockSize),
    score: (_query, summary) => worth(summary[0]!),
    ...policy,
  });
}

function headOf(numEntries: number): HeadCache {
  const head = new HeadCache(new BytePool(2 ** 30), HEAD_DIM, numEntries);
  head.reserve(numEntries);
  const rows = Float32Array.from({ length: numEntries * HEAD_DIM }, (_, i) => Math.floor(i / HEAD_DIM));
  head.append(rows, rows);
  return head;
}

function slotsRead(blocks: BlockReader, head: HeadCache, layer = 0): number[] {
  const projected = new Float32Array(4 * HEAD_DIM);
  const view = blocks.view({ layer, head: 0, from: 0, entries: head, attention, projected, scratch: 0 });
  expect([...view.values]).toEqual([...view.keys]);
  return Array.from({ length: view.keys.length / HEAD_DIM }, (_, i) => view.keys[i * HEAD_DIM]!);
}

describe('a decode row', () => {
  it('reads itself and whole blocks within its budget, ascending, the most promising ones', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 90 }),
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 90 }),
        (numEntries, blockSize, maxEntries) => {
          const worth = (block: number): number => (block * 7) % 11;
          const head = headOf(numEntries);
          const slots = slotsRead(reader({ blockSize, budget: { maxEntries } }, worth), head);
          expect(slots).toContain(numEntries - 1);
          expect(slots).toEqual([...slots].sort((a, b) => a - b));
          // The least that makes sense is the row's own block.
          expect(slots.length).toBeLessThanOrEqual(Math.max(maxEntries, blockSize));
          const numBlocks = Math.floor(numEntries / blockSize);
          const read = new Set(slots.map((slot) => Math.floor(slot / blockSize)));
          for (const block of read) {
            if (block === numBlocks || block === numBlocks - 1) continue;
            const missed = Array.from({ length: numBlocks }, (_, i) => i).filter((i) => !read.has(i));
            for (const other of missed) expect(worth(other)).toBeLessThanOrEqual(worth(block));
          }
          head.free();
        },
      ),
    );
  });

  it('reads the first and last blocks whatever they promise, and everything in dense layers', () => {
    const head = headOf(64);
    const policy = { firstBlocks: 1, lastBlocks: 2, denseLayers: 1, budget: { maxEntries: 16 } };
    const blocks = reader(policy, (block) => (block === 7 ? 1 : 0));
    expect(slotsRead(blocks, head, 0)).toHaveLength(64);
    expect(slotsRead(blocks, head, 1)).toEqual(
      [0, 7, 14, 15].flatMap((block) => [0, 1, 2, 3].map((i) => 4 * block + i)),
    );
    head.free();
  });
});
