/** What every kv policy must hold, for each of its examples. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MODULES } from '../../src/policies/index.ts';
import { keptEntries } from '../../src/policies/selection.ts';
import { allIndices, create, expectSelection, kvCases } from './cases.ts';
import { DENSE_SHAPE, headEntries, share, vector } from './inputs.ts';

const RUNS = { numRuns: 30 };
const SIGNAL = {
  none: null,
  last: 'last-query-attention',
  window: 'observed-attention',
  all: 'accumulated-attention',
  repeated: 'repeated-attention',
} as const;

const evicting = kvCases('evict').filter(({ model }) => model === DENSE_SHAPE);

describe.each(evicting)('$title', ({ policy, name, value }) => {
  it('selects ascending entries within the budget, the protected ones among them, always the same', () => {
    fc.assert(
      fc.property(headEntries(policy), share, ({ entries, arrays }, part) => {
        const { length, numSinks, numRecent } = entries;
        const least = Math.max(1, numSinks + numRecent);
        const budget = least + Math.floor(part * (length - least));
        const copies = structuredClone(arrays);
        const indices = policy.select(entries, budget);
        expectSelection(indices, length, budget);
        expect(indices.subarray(0, numSinks)).toEqual(allIndices(length).subarray(0, numSinks));
        expect(indices.subarray(budget - numRecent)).toEqual(allIndices(length).subarray(length - numRecent));
        const other = create('kv', value, DENSE_SHAPE);
        expect(other.kind === 'evict' && other.select(entries, budget)).toEqual(indices);
        expect(policy.select(entries, length)).toEqual(allIndices(length));
        expect(arrays).toEqual(copies);
      }),
      RUNS,
    );
  });

  it('observes what it says that it needs', () => {
    const { needs } = MODULES.find((module) => module.family === 'kv' && module.name === name)!;
    const signal = SIGNAL[policy.observes];
    if (signal !== null) expect(needs).toContain(signal);
    expect(policy.window > 0).toBe(policy.observes === 'window');
    expect(policy.needsQueries).toBe(needs.includes('query-statistics'));
  });

  it('has room for what is protected', () => {
    const { maxEntries = Infinity } = policy.budget;
    expect(policy.sink + policy.recent).toBeLessThanOrEqual(maxEntries);
  });
});

it.each(kvCases('evict').filter(({ policy }) => policy.layerBudget !== undefined))(
  '$title: gives layers budgets that fall and keep the average',
  ({ policy, model }) => {
    const numLayers = model.layers.length;
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3000 }), share, (length, part) => {
        const average = 1 + Math.floor(part * (length - 1));
        const budgets = model.layers.map((_, layer) =>
          policy.layerBudget!(layer, numLayers, average, length),
        );
        expect(budgets.reduce((a, b) => a + b, 0)).toBe(average * numLayers);
        expect(budgets).toEqual(budgets.toSorted((a, b) => b - a));
        expect(budgets[0]).toBeLessThanOrEqual(length);
        expect(budgets.at(-1)).toBeGreaterThanOrEqual(Math.min(average, policy.sink + policy.recent));
      }),
      RUNS,
    );
  },
);

it.each(evicting.filter(({ policy }) => policy.allot !== undefined))(
  '$title: gives heads budgets that keep the average',
  ({ policy }) => {
    fc.assert(
      fc.property(fc.array(headEntries(policy), { minLength: 1, maxLength: 6 }), share, (made, part) => {
        const heads = made.map(({ entries }) => entries);
        const total = heads.reduce((sum, { length }) => sum + length, 0);
        const needed = heads.map(({ numSinks, numRecent }) => numSinks + numRecent);
        const least = needed.reduce((a, b) => a + b, 0);
        const average = Math.ceil((least + part * (total - least)) / heads.length);
        const budgets = policy.allot!(heads, average);
        expect(budgets.reduce((a, b) => a + b, 0)).toBe(Math.min(total, average * heads.length));
        expect(budgets.every((budget, i) => budget >= needed[i]! && budget <= heads[i]!.length)).toBe(true);
      }),
      RUNS,
    );
  },
);

describe.each(kvCases('read'))('$title', ({ policy, model }) => {
  const headDim = 8;

  it('scores blocks by finite numbers, equal ones for equal keys, and changes nothing', () => {
    expect(policy.denseLayers).toBeLessThanOrEqual(model.layers.length);
    fc.assert(
      fc.property(vector(policy.blockSize * headDim), vector(headDim), (keys, query) => {
        const copies = [keys.slice(), query.slice()];
        const score = policy.score(query, policy.summarise(keys, headDim));
        expect(Number.isFinite(score)).toBe(true);
        expect(policy.score(query, policy.summarise(keys, headDim))).toBe(score);
        expect([keys, query]).toEqual(copies);
      }),
      { numRuns: 5 },
    );
  });

  it('prefers blocks whose keys point along the query', () => {
    const query = Float32Array.from({ length: headDim }, (_, i) => i - 3);
    const scoreOf = (factor: number): number => {
      const keys = Float32Array.from(
        { length: policy.blockSize * headDim },
        (_, i) => factor * query[i % headDim]!,
      );
      return policy.score(query, policy.summarise(keys, headDim));
    };
    expect(scoreOf(1)).toBeGreaterThan(scoreOf(0.5));
    expect(scoreOf(0.5)).toBeGreaterThan(scoreOf(-1));
  });
});

it.each(kvCases('split'))('$title: says of every KV head whether it streams', ({ policy, model }) => {
  expect(policy.streaming.map((row) => row.length)).toEqual(model.layers.map(({ kvHeads }) => kvHeads));
});

it.each(MODULES.filter(({ family, name }) => family === 'kv' && name !== 'duo-attention'))(
  '$name with a share of 1 keeps all entries',
  ({ name }) => {
    const policy = create('kv', { policy: name, keep: 1 }, DENSE_SHAPE);
    if (policy.kind === 'split') throw new Error('this policy has a share');
    for (const length of [1, 7, 50, 8191]) {
      const budget = keptEntries(policy.budget, length);
      expect(budget).toBe(length);
      if (policy.kind === 'evict') expect(policy.layerBudget?.(0, 6, budget, length) ?? budget).toBe(length);
    }
  },
);
