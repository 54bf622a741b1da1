/** PrunedHead against lists: positions, scores, keys and values stay together whatever happens in whatever order. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { lowerBound, PrunedCache, type PrunedHead, range } from '../../src/kv/pruned-cache.ts';
import { SequenceCache } from '../../src/kv/sequence-cache.ts';

const HEAD_DIM = 4;
/** Query, key and value of one head: the query first, as projected rows have it. */
const WIDTH = 3 * HEAD_DIM;
const MAX_ENTRIES = 2000;

interface Entry {
  readonly position: number;
  readonly key: number;
  score: number;
}

interface Pair {
  readonly cache: SequenceCache;
  readonly head: PrunedHead;
  readonly entries: Entry[];
  numAppended: number;
}

function open(pool: BytePool, numBefore: number, keepsScores: boolean): Pair {
  const cache = new SequenceCache(pool, [{ kvHeads: 1, headDim: HEAD_DIM }], MAX_ENTRIES);
  cache.reserve(numBefore);
  const keys = Float32Array.from({ length: numBefore * HEAD_DIM }, (_, i) => Math.floor(i / HEAD_DIM) / 2);
  cache.heads(0)[0]!.append(
    keys,
    keys.map((key) => -key),
  );
  const [head] = PrunedCache.over(cache, keepsScores).heads(0);
  const entries = Array.from({ length: numBefore }, (_, position) => ({
    position,
    key: position / 2,
    score: 0,
  }));
  return { cache, head: head!, entries, numAppended: numBefore };
}

let nextKey = 1000;

function append({ cache, head, entries }: Pair, positions: readonly number[]): void {
  expect(cache.reserveMore(positions.length, 0)).toBe(true);
  const rows = new Float32Array(positions.length * WIDTH);
  const added = positions.map((position) => ({ position, key: nextKey++, score: 0 }));
  added.forEach(({ key }, i) => {
    rows.fill(key, i * WIDTH + HEAD_DIM, i * WIDTH + 2 * HEAD_DIM);
    rows.fill(-key, i * WIDTH + 2 * HEAD_DIM, (i + 1) * WIDTH);
  });
  head.appendColumns(rows, WIDTH, HEAD_DIM, 2 * HEAD_DIM, Int32Array.from(positions));
  entries.push(...added);
}

function expectAlike({ head, entries, numAppended }: Pair, keepsScores: boolean): void {
  const { length } = entries;
  expect(head.length).toBe(length);
  expect(head.cache.length).toBe(length);
  expect(head.numAppended).toBe(numAppended);
  expect([...head.positions]).toEqual(entries.map(({ position }) => position));
  expect([...head.scores]).toEqual(keepsScores ? entries.map(({ score }) => score) : []);
  const spread = (sign: number) => entries.flatMap(({ key }) => Array<number>(HEAD_DIM).fill(sign * key));
  expect([...head.cache.keys()]).toEqual(spread(1));
  expect([...head.cache.values()]).toEqual(spread(-1));
  const isAscending = entries.every(({ position }, i) => i === 0 || position > entries[i - 1]!.position);
  expect(head.isAscending).toBe(isAscending);
}

type Action =
  | { readonly type: 'append'; readonly positions: readonly number[] }
  | { readonly type: 'keep'; readonly share: number; readonly seed: number }
  | { readonly type: 'truncate' | 'drop'; readonly share: number }
  | { readonly type: 'score'; readonly value: number }
  | { readonly type: 'reset' }
  | { readonly type: 'clone' };

const share = fc.double({ min: 0, max: 1, noNaN: true });
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .array(fc.nat({ max: 400 }), { minLength: 1, maxLength: 90 })
      .map((positions): Action => ({ type: 'append', positions })),
  },
  // Mostly what prompts and steps do: positions that go on.
  {
    weight: 4,
    arbitrary: fc
      .record({ begin: fc.integer({ min: 401, max: 5000 }), size: fc.integer({ min: 1, max: 90 }) })
      .map(({ begin, size }): Action => ({ type: 'append', positions: [...range(begin, begin + size)] })),
  },
  { weight: 4, arbitrary: fc.record({ type: fc.constant('keep' as const), share, seed: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('truncate' as const), share }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('drop' as const), share }) },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant('score' as const), value: fc.integer({ min: 1, max: 9 }) }),
  },
  { weight: 1, arbitrary: fc.constant<Action>({ type: 'reset' }) },
  { weight: 1, arbitrary: fc.constant<Action>({ type: 'clone' }) },
);

/** Changes both alike; a clone goes on beside the original, which must not change with it. */
function perform(pair: Pair, step: Action): Pair | null {
  const { cache, head, entries } = pair;
  if (step.type === 'append') {
    append(pair, step.positions);
    pair.numAppended += step.positions.length;
  } else if (step.type === 'keep') {
    const kept = entries.flatMap((_, i) => (((i * 7919 + step.seed) % 1000) / 1000 < step.share ? [i] : []));
    head.keep(Int32Array.from(kept));
    entries.splice(0, entries.length, ...kept.map((i) => entries[i]!));
  } else if (step.type === 'truncate') {
    const length = Math.floor(step.share * entries.length);
    head.truncate(length);
    pair.numAppended -= entries.length - length;
    entries.length = length;
  } else if (step.type === 'drop') {
    if (entries.length === 0) return null;
    const slot = Math.min(Math.floor(step.share * entries.length), entries.length - 1);
    head.drop(slot);
    entries.splice(slot, 1);
  } else if (step.type === 'score') {
    const isScored = head.scores.length > 0;
    head.scores.forEach((score, i) => (head.scores[i] = score + step.value * i));
    if (isScored) entries.forEach((entry, i) => (entry.score += step.value * i));
  } else if (step.type === 'reset') {
    head.resetScores();
    for (const entry of entries) entry.score = 0;
  } else {
    const copy = cache.fork()!;
    const copied = head.clone(copy.heads(0)[0]!);
    return {
      cache: copy,
      head: copied,
      entries: entries.map((entry) => ({ ...entry })),
      numAppended: pair.numAppended,
    };
  }
  return null;
}

describe('PrunedHead', () => {
  it('is a list of entries', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 150 }),
        fc.boolean(),
        fc.array(action, { minLength: 1, maxLength: 14 }),
        (numBefore, keepsScores, steps) => {
          const pool = new BytePool(1e8);
          const pairs = [open(pool, numBefore, keepsScores)];
          steps.forEach((step, i) => {
            const copy = perform(pairs[i % pairs.length]!, step);
            if (copy !== null) pairs.push(copy);
            for (const pair of pairs) expectAlike(pair, keepsScores);
          });
          expect(pool.usedBytes).toBe(pairs.reduce((sum, { cache }) => sum + cache.bytes, 0));
          for (const { cache } of pairs) cache.free();
          expect(pool.usedBytes).toBe(0);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('refuses rows without positions', () => {
    const pair = open(new BytePool(1e8), 3, false);
    pair.cache.reserveMore(2);
    expect(() => {
      pair.head.appendColumns(new Float32Array(2 * WIDTH), WIDTH, 0, HEAD_DIM, Int32Array.of(3));
    }).toThrow('invariant');
  });
});

it('lowerBound finds the first that is not less', () => {
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 60 }), { maxLength: 40 }), fc.nat({ max: 61 }), (values, value) => {
      const ascending = Int32Array.from(values).sort();
      const expected = ascending.findIndex((other) => other >= value);
      expect(lowerBound(ascending, value)).toBe(expected === -1 ? ascending.length : expected);
    }),
  );
});
