/** Rounding and ties, against counts and sets that kvpress computed. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { keptEntries, keptTokens, topEntries, topIndices, topTokens } from '../../src/policies/selection.ts';

interface Press {
  press: string;
  args: { compression_ratio: number };
  input_ids: number[];
  kept_per_layer_kv_head: number[][][];
  n_kept_per_layer: number[];
  min_relative_gap_at_cut: number;
  scores_last_layer_head0: number[];
}
const PRESSES = JSON.parse(
  readFileSync(join(import.meta.dirname, '../fixtures/kvpress/presses.json'), 'utf8'),
) as Press[];

it.each(PRESSES)('$press $args keeps as many entries', (press) => {
  for (const kept of press.n_kept_per_layer)
    expect(keptEntries({ keep: 1 - press.args.compression_ratio }, press.input_ids.length)).toBe(kept);
});

// Closer scores than that are equal in the numbers that the fixture was written with.
it.each(PRESSES.filter((press) => press.min_relative_gap_at_cut > 1e-5))(
  '$press $args selects the same entries by the same scores',
  (press) => {
    const expected = press.kept_per_layer_kv_head.at(-1)![0]!;
    expect([...topIndices(press.scores_last_layer_head0, press.n_kept_per_layer.at(-1)!)]).toEqual(expected);
  },
);

describe('how many', () => {
  it.each([
    { keep: 0.7, numAlive: 100, kept: 70 },
    { keep: 0.7, numAlive: 10, kept: 7 },
    { keep: 0.9, numAlive: 10, kept: 9 },
    { keep: 0.5, numAlive: 7, kept: 4 },
    { keep: 0.7, numAlive: 1800, kept: 1260 },
    { keep: 0.01, numAlive: 3, kept: 1 },
    { keep: 1, numAlive: 33, kept: 33 },
  ])('keeps $kept of $numAlive tokens at $keep', ({ keep, numAlive, kept }) => {
    expect(keptTokens(keep, numAlive)).toBe(kept);
  });

  it.each([
    { keep: 0.3, numSeen: 10, kept: 3 },
    { keep: 0.55, numSeen: 100, kept: 55 },
    { keep: 0.5, numSeen: 7, kept: 3 },
    { keep: 0.1, numSeen: 3, kept: 1 },
    { keep: 1, numSeen: 33, kept: 33 },
  ])('keeps $kept of $numSeen entries at $keep', ({ keep, numSeen, kept }) => {
    expect(keptEntries({ keep }, numSeen)).toBe(kept);
  });

  it('keeps a number of entries, or all if there are fewer', () => {
    expect(keptEntries({ maxEntries: 40 }, 100)).toBe(40);
    expect(keptEntries({ maxEntries: 40 }, 12)).toBe(12);
  });
});

describe('which', () => {
  it('are the highest scores, equal ones by lower index, as a stable sort has them', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -3, max: 3 }), { maxLength: 60 }),
        fc.nat({ max: 70 }),
        (scores, count) => {
          const sorted = scores.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]!);
          expect([...topIndices(scores, count)]).toEqual(sorted.slice(0, count).sort((a, b) => a - b));
        },
      ),
    );
  });

  it('treat infinite scores like others', () => {
    expect([...topIndices([0, -Infinity, Infinity, 0, Infinity], 3)]).toEqual([0, 2, 4]);
  });

  it('have the last token among them, whatever its score', () => {
    expect([...topTokens(Float32Array.of(3, 2, 9, 0), 2)]).toEqual([2, 3]);
    expect([...topTokens(Float32Array.of(3, 2, 9, 0), 1)]).toEqual([3]);
  });

  it('have the protected entries among them', () => {
    const scores = [0, 5, 1, 9, 2, 0];
    expect([...topEntries(scores, 4, { numSinks: 1, numRecent: 1 })]).toEqual([0, 1, 3, 5]);
    expect([...topEntries(scores, 2, { numSinks: 1, numRecent: 1 })]).toEqual([0, 5]);
    expect([...topEntries(scores, 9, { numSinks: 1, numRecent: 1 })]).toEqual([0, 1, 2, 3, 4, 5]);
  });
});
