/** Puts recognisable entries into sequence caches and reads them back. */
import { expect } from 'vitest';
import type { SequenceCache } from '../../src/kv/sequence-cache.ts';

/** Appends one entry per number to every head: keys repeat the number, values its negative. */
export function fill(cache: SequenceCache, entries: Float32Array): void {
  for (const layer of cache.shape.keys()) {
    for (const head of cache.heads(layer)) {
      expect(head.reserve(head.length + entries.length)).toBe(true);
      const keys = new Float32Array(entries.length * head.headDim);
      entries.forEach((entry, i) => keys.fill(entry, i * head.headDim, (i + 1) * head.headDim));
      head.append(
        keys,
        keys.map((x) => -x),
      );
    }
  }
}

/** The numbers that every head holds; fails when heads, elements, or K and V disagree. */
export function readEntries(cache: SequenceCache): number[] {
  const heads = [...cache.shape.keys()].flatMap((layer) => cache.heads(layer));
  const read = heads.map((head) => {
    const keys = head.keys();
    expect(head.values()).toEqual(keys.map((x) => -x));
    return Array.from({ length: head.length }, (_, slot) => {
      const row = keys.subarray(slot * head.headDim, (slot + 1) * head.headDim);
      const first = row[0]!;
      expect(row.every((x) => x === first)).toBe(true);
      return first;
    });
  });
  for (const entries of read) expect(entries).toEqual(read[0]);
  return read[0] ?? [];
}
