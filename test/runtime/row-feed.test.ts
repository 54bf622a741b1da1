/** feedRows against the rule itself: which entries each row sees. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { HeadCache } from '../../src/kv/head-cache.ts';
import { PrunedHead } from '../../src/kv/pruned-cache.ts';
import { type FedHead, feedRows, type Visibility } from '../../src/runtime/pruning/row-feed.ts';

const HEAD_DIM = 2;

/** A head whose keys are [position, 1] and values [position, -1]. */
function headAt(positions: readonly number[]): PrunedHead {
  const cache = new HeadCache(new BytePool(1e8), HEAD_DIM, 4096);
  cache.reserve(positions.length);
  const head = new PrunedHead(cache, false);
  const rows = Float32Array.from(positions.flatMap((position) => [position, 1, position, -1]));
  head.appendColumns(rows, 2 * HEAD_DIM, 0, HEAD_DIM, Int32Array.from(positions));
  return head;
}

/** Positions that row `row` sees, read off the view alone: ascending. */
function seenBy({ view }: FedHead, row: number, numRows: number): number[] {
  const entries = [...view.keys].filter((_, i) => i % HEAD_DIM === 0);
  const numTail = view.mask.length / numRows;
  expect(numTail).toBeLessThanOrEqual(entries.length);
  // Keys and values of an entry stand in the same place.
  expect([...view.values].filter((_, i) => i % HEAD_DIM === 0)).toEqual(entries);
  const numKeys = entries.length - numTail;
  const seen = entries.filter((_, i) => {
    const added = i < numKeys ? 0 : view.mask[row * numTail + i - numKeys]!;
    expect(added === 0 || added < -1e20).toBe(true);
    return added === 0;
  });
  return seen.sort((a, b) => a - b);
}

/** As the policies' contract and the models say it. */
function rule(row: number, entries: readonly number[], visibility: Visibility): number[] {
  const { streaming, window, selected } = visibility;
  return entries
    .filter((entry) => entry <= row)
    .filter((entry) => window === null || row - entry < window)
    .filter((entry) => streaming === null || entry < streaming.sink || row - entry <= streaming.recent)
    .filter((entry) => selected === null || selected[entry] === 1)
    .sort((a, b) => a - b);
}

function expectRule(positions: readonly number[], rows: readonly number[], visibility: Visibility): void {
  const head = headAt(positions);
  const fed = feedRows(head, Int32Array.from(rows), visibility);
  const { view } = fed;
  expect([...fed.positions]).toEqual([...view.keys].filter((_, i) => i % HEAD_DIM === 0));
  if (fed.firstSlot !== null)
    expect([...fed.positions]).toEqual(
      [...head.positions].slice(fed.firstSlot, fed.firstSlot + fed.positions.length),
    );
  rows.forEach((row, i) => {
    expect(seenBy(fed, i, rows.length), `row at ${row}`).toEqual(rule(row, positions, visibility));
  });
}

const MAX_POSITION = 90;

/** What a model and its policies may ask for; of a selection all rows are part. */
const visibility = fc.record({
  streaming: fc.option(fc.record({ sink: fc.nat({ max: 8 }), recent: fc.integer({ min: 1, max: 20 }) })),
  window: fc.option(fc.integer({ min: 1, max: 30 })),
});

/** Distinct positions; the rows are some of them. */
const placed = fc
  .record({
    positions: fc.uniqueArray(fc.nat({ max: MAX_POSITION }), { minLength: 1, maxLength: 60 }),
    firstRow: fc.nat({ max: 59 }),
    stride: fc.integer({ min: 1, max: 3 }),
    isAscending: fc.boolean(),
  })
  .map(({ positions, firstRow, stride, isAscending }) => {
    const ascending = positions.toSorted((a, b) => a - b);
    const rows = ascending.slice(firstRow % ascending.length).filter((_, i) => i % stride === 0);
    return { positions: isAscending ? ascending : positions, rows };
  });

describe('feedRows', () => {
  it('shows each row what the rule says', () => {
    fc.assert(
      fc.property(placed, visibility, fc.option(fc.nat()), ({ positions, rows }, rules, seed) => {
        const select = (shift: number): Uint8Array =>
          Uint8Array.from({ length: MAX_POSITION + 1 }, (_, i) =>
            Number(rows.includes(i) || (i * 31 + shift) % 3 > 0),
          );
        // Again and again: a mask that was kept must not serve another selection or window.
        for (const shift of [0, 1]) {
          const selected = seed === null ? null : select(seed + shift);
          expectRule(positions, rows, { ...rules, selected });
          expectRule(positions, rows, { ...rules, selected, window: rules.window && rules.window + 2 });
        }
      }),
      { numRuns: 250 },
    );
  });

  /** A prompt in tiles, with masks kept from one to the next; `gap` = a policy has left out each so manieth token. */
  function expectTiles(rules: Visibility, tileRows: number, gap = 0): void {
    const all = Array.from({ length: 60 }, (_, i) => i).filter((i) => gap < 2 || i % gap !== 1);
    for (let at = 0; at < all.length; at += tileRows) {
      const end = Math.min(all.length, at + tileRows);
      expectRule(all.slice(0, end), all.slice(at, end), rules);
    }
  }

  it('shows the tiles of a prompt what the rule says', () => {
    fc.assert(
      fc.property(visibility, fc.integer({ min: 3, max: 24 }), fc.nat({ max: 5 }), (rules, tileRows, gap) => {
        expectTiles({ ...rules, selected: null }, tileRows, gap);
      }),
      { numRuns: 40 },
    );
    // The first tile that has left something behind sees as many entries as the one before it.
    expectTiles({ streaming: { sink: 2, recent: 4 }, window: null, selected: null }, 4);
    expectTiles({ streaming: { sink: 3, recent: 8 }, window: null, selected: null }, 8);
    expectTiles({ streaming: null, window: 9, selected: null }, 8);
  });

  it('copies no entry that no row can see', () => {
    const all = Array.from({ length: 1000 }, (_, i) => i);
    const streaming = { streaming: { sink: 4, recent: 16 }, window: null, selected: null };
    const { view } = feedRows(headAt(all), Int32Array.of(998, 999), streaming);
    expect(view.values.length / HEAD_DIM).toBe(4 + 16 + 2);
    const windowed = feedRows(headAt(all), Int32Array.of(998, 999), {
      ...streaming,
      streaming: null,
      window: 24,
    });
    expect(windowed.view.values.length / HEAD_DIM).toBe(24 + 1);
  });
});
