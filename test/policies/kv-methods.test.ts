/** What is particular to each kv policy: its scores, its budgets, and what its options change. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EvictingPolicy, HeadEntries, ReadingPolicy } from '../../src/policies/index.ts';
import { averagePool } from '../../src/policies/kv/snapkv.ts';
import { create } from './cases.ts';
import { DENSE_SHAPE, plainEntries, vector } from './inputs.ts';

function evicting(value: unknown): EvictingPolicy {
  const policy = create('kv', value, DENSE_SHAPE);
  if (policy.kind !== 'evict') throw new Error('expected an evicting policy');
  return policy;
}

function reading(value: unknown): ReadingPolicy {
  const policy = create('kv', value, DENSE_SHAPE);
  if (policy.kind !== 'read') throw new Error('expected a reading policy');
  return policy;
}

const select = (value: unknown, budget: number, entries: HeadEntries): number[] => [
  ...evicting(value).select(entries, budget),
];
const numbers =
  (...values: number[]) =>
  (): Float32Array =>
    Float32Array.from(values);

describe('options of all evicting policies', () => {
  it('reach the engine', () => {
    const value = { policy: 'key-norm', max_entries: 50, sink: 3, recent: 7, interval: null };
    expect(evicting(value)).toMatchObject({
      budget: { maxEntries: 50 },
      sink: 3,
      recent: 7,
      interval: null,
    });
    expect(evicting({ policy: 'key-norm', keep: 0.25, interval: 9 })).toMatchObject({
      budget: { keep: 0.25 },
      interval: 9,
    });
    expect(evicting('key-norm')).toMatchObject({ budget: { keep: 0.5 }, sink: 4, recent: 32, interval: 128 });
  });
});

it('streaming-llm keeps sinks and the most recent entries', () => {
  const positions = Int32Array.of(0, 1, 2, 5, 9, 12, 13);
  expect(select('streaming-llm', 4, plainEntries(7, { positions, numSinks: 2 }))).toEqual([0, 1, 5, 6]);
});

describe('h2o', () => {
  const entries = plainEntries(8, {
    attention: numbers(9, 8, 10, 0, 3, 2, 0, 0),
  });

  it('gives half of the budget to recent entries, half to heavy hitters', () => {
    expect(select('h2o', 4, entries)).toEqual([0, 2, 6, 7]);
    expect(evicting('h2o')).toMatchObject({ observes: 'all' });
  });

  it('takes another share on request, but at least the recent entries', () => {
    expect(select({ policy: 'h2o', recent_share: 0 }, 4, entries)).toEqual([0, 1, 2, 4]);
    expect(select({ policy: 'h2o', recent_share: 0 }, 4, { ...entries, numRecent: 1 })).toEqual([0, 1, 2, 7]);
    expect(select({ policy: 'h2o', recent_share: 1 }, 4, { ...entries, numSinks: 1 })).toEqual([0, 5, 6, 7]);
  });
});

it('tova goes by all query heads of the layer and keeps the last entry', () => {
  const entries = plainEntries(5, {
    attention: numbers(0, 0, 0, 9, 9),
    layerAttention: numbers(0.1, 0.5, 0.2, 0.1, 0),
  });
  expect(select('tova', 3, entries)).toEqual([1, 2, 4]);
});

describe('snapkv and pyramidkv', () => {
  it('average over neighbours, with zeros beyond the ends', () => {
    expect([...averagePool(Float32Array.of(3, 0, 0, 6, 9), 3)]).toEqual([1, 1, 2, 5, 5]);
    expect([...averagePool(Float32Array.of(3, 1), 1)]).toEqual([3, 1]);
  });

  it.each(['snapkv', 'pyramidkv'])('%s: neighbours of what the window attended to stay, too', (policy) => {
    const attention = numbers(0, 0.2, 0, 0.1, 0.9, 0.1, 0, 0.2, 0, 5);
    const entries = plainEntries(10, { attention, numRecent: 1 });
    const options = { policy, observation_window: 1, recent: 0 };
    expect(select({ ...options, kernel: 3 }, 4, entries)).toEqual([3, 4, 5, 9]);
    expect(select({ ...options, kernel: 1 }, 4, entries)).toEqual([1, 4, 7, 9]);
    expect(evicting({ ...options, observation_window: 12 })).toMatchObject({ window: 12, recent: 12 });
  });

  it('pyramidkv takes from the last layers what it gives the first', () => {
    const budgets = (beta: number, length: number): number[] => {
      const value = { policy: 'pyramidkv', keep: 0.5, beta, observation_window: 8, recent: 0 };
      return [0, 1, 2, 3].map((layer) => evicting(value).layerBudget!(layer, 4, 60, length));
    };
    // 52 beyond the window; the last layer keeps 52 / 20 = 2.6 of them.
    expect(budgets(20, 400)).toEqual([109, 76, 44, 11]);
    expect(budgets(2, 400)).toEqual([86, 69, 51, 34]);
    expect(budgets(1, 400)).toEqual([60, 60, 60, 60]);
    // No layer has more than all.
    expect(budgets(20, 90)).toEqual([90, 70, 50, 30]);
  });
});

it('expected-attention weighs probabilities by value norms, and asks for what it was told', () => {
  const asked: number[][] = [];
  const entries = plainEntries(5, {
    numSinks: 1,
    valueNorms: numbers(1, 1, 4, 1, 9),
    expectedAttention(...args) {
      asked.push(args);
      return Float32Array.of(0, 0.4, 0.3, 0.25, 0.05);
    },
  });
  expect(select({ policy: 'expected-attention', future: 77 }, 3, entries)).toEqual([0, 2, 4]);
  expect(asked).toEqual([[77, 1]]);
});

it('key-norm keeps small keys, key-diff unlike ones', () => {
  const entries = plainEntries(4, {
    keyNorms: numbers(3, 1, 2, 4),
    keySimilarities: numbers(0.9, 0.8, -0.3, 0.1),
  });
  expect(select('key-norm', 2, entries)).toEqual([1, 2]);
  expect(select('key-diff', 2, entries)).toEqual([2, 3]);
});

describe('kvzip', () => {
  const head = (...attention: number[]): HeadEntries =>
    plainEntries(attention.length, { numSinks: 1, attention: numbers(...attention) });
  const heads = [head(0, 0.8, 0.9, 0.2), head(0, 0.3, 0.1, 0.2)];

  it('shares one budget between all heads by the highest scores', () => {
    const policy = evicting('kvzip');
    // Sinks, 0.9, 0.8, then 0.3, then the earlier head of both with 0.2.
    expect(policy.allot!(heads, 1)).toEqual([1, 1]);
    expect(policy.allot!(heads, 2)).toEqual([3, 1]);
    expect(policy.allot!(heads, 3)).toEqual([4, 2]);
    expect(policy.allot!(heads, 4)).toEqual([4, 4]);
    expect([...policy.select(heads[0]!, 3)]).toEqual([0, 1, 2]);
    expect(policy).toMatchObject({ observes: 'repeated', interval: null });
  });
});

describe('random', () => {
  const choose = (seed: number, head: number, layer: number): number[] =>
    select({ policy: 'random', seed }, 50, plainEntries(100, { head, layer }));

  it('chooses other entries for other seeds, heads and layers', () => {
    const choices = [choose(0, 0, 0), choose(1, 0, 0), choose(0, 1, 0), choose(0, 0, 1)];
    expect(new Set(choices.map(String)).size).toBe(4);
  });
});

describe('quest', () => {
  it('bounds the product with every key of the page, exactly where the page is one key', () => {
    const policy = reading('quest');
    fc.assert(
      fc.property(vector(4 * 6), vector(6), (keys, query) => {
        const bound = policy.score(query, policy.summarise(keys, 6));
        const products = [0, 1, 2, 3].map((row) =>
          query.reduce((sum, value, i) => sum + value * keys[row * 6 + i]!, 0),
        );
        expect(bound).toBeGreaterThanOrEqual(Math.max(...products) - 1e-4);
        expect(policy.score(query, policy.summarise(keys.slice(0, 6), 6))).toBeCloseTo(products[0]!, 4);
      }),
    );
  });

  it('reads everything in the first layers', () => {
    expect(reading('quest')).toMatchObject({ blockSize: 16, denseLayers: 2, budget: { keep: 0.5 } });
    expect(reading({ policy: 'quest', page: 8, dense_layers: 0, max_entries: 40 })).toMatchObject({
      blockSize: 8,
      denseLayers: 0,
      budget: { maxEntries: 40 },
    });
  });
});

describe('longheads', () => {
  it('stands for a chunk by its keys, weighed by their likeness to the mean key', () => {
    const policy = reading('longheads');
    // Mean key (2, 0): products 2 * 4 / 2 = 4 and 0 with a head of 4 channels.
    const summary = policy.summarise(Float32Array.of(4, 0, 0, 0, 0, 0, 0, 0), 4);
    const expected = (4 * Math.exp(4)) / (Math.exp(4) + 1);
    expect(summary[0]).toBeCloseTo(expected, 5);
    expect([...summary.subarray(1)]).toEqual([0, 0, 0]);
    expect(policy.score(Float32Array.of(2, 1, 1, 1), summary)).toBeCloseTo(2 * expected, 5);
  });

  it('always reads the first and the last chunk', () => {
    expect(reading('longheads')).toMatchObject({ blockSize: 256, firstBlocks: 1, lastBlocks: 1 });
    expect(reading({ policy: 'longheads', chunk: 32 }).blockSize).toBe(32);
  });
});
