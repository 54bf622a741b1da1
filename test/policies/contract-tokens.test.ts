/** What every tokens policy must hold, for each of its examples. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { allIndices, cases, create, expectSelection } from './cases.ts';
import { DENSE_SHAPE, aliveTokens, share } from './inputs.ts';

const RUNS = { numRuns: 30 };

describe.each(cases('tokens'))('$title', ({ policy, model, value }) => {
  const numLayers = model.layers.length;

  it('cuts to whole numbers between one and all, and never after the last layer', () => {
    const budgets = model.layers.flatMap((_, layer) =>
      [1, 2, 3, 50, 8192].flatMap((numSeen) =>
        [1, Math.ceil(numSeen / 2), numSeen].map((numAlive) => ({
          layer,
          numAlive,
          budget: policy.budget(layer, numAlive, numSeen),
        })),
      ),
    );
    const cuts = budgets.filter(({ budget }) => budget !== null);
    expect(cuts.length).toBeGreaterThan(0);
    const wrong = cuts.filter(
      ({ layer, numAlive, budget }) =>
        !Number.isInteger(budget) || budget! < 1 || budget! > numAlive || layer === numLayers - 1,
    );
    expect(wrong).toEqual([]);
  });

  it('selects ascending tokens within the budget, the last one among them, always the same', () => {
    const tokens = fc.nat({ max: numLayers - 1 }).chain((layer) => aliveTokens(layer, numLayers));
    fc.assert(
      fc.property(tokens, share, (alive, part) => {
        const { length } = alive.positions;
        const budget = 1 + Math.floor(part * (length - 1));
        const copy = structuredClone(alive);
        const indices = policy.select(alive, budget);
        expectSelection(indices, length, budget);
        expect(indices.at(-1)).toBe(length - 1);
        expect(create('tokens', value, model).select(alive, budget)).toEqual(indices);
        expect(policy.select(alive, length)).toEqual(allIndices(length));
        expect(alive).toEqual(copy);
      }),
      RUNS,
    );
  });
});

it.each(cases('tokens').filter(({ policy }) => policy.heads !== undefined))(
  '$title: keeps query heads within the budget',
  ({ policy: { heads }, model }) => {
    const layer = fc.nat({ max: model.layers.length - 1 });
    const magnitudes = fc.float32Array({ min: 0, minLength: 1, maxLength: 20, noNaN: true });
    fc.assert(
      fc.property(layer, magnitudes, (at, values) => {
        const budget = heads!.budget(at, values.length);
        if (budget === null) return;
        const copy = values.slice();
        expectSelection(heads!.select(values, budget), values.length, budget);
        expect(values).toEqual(copy);
      }),
      RUNS,
    );
  },
);

it.each([
  { policy: 'lazyllm', stages: [{ layer: 0, keep: 1 }] },
  { policy: 'random', stages: [{ layer: 0, keep: 1 }] },
  { policy: 'spatten', token_keep: 1 },
  { policy: 'ftp', keep: 1 },
])('$policy with a share of 1 keeps all tokens', (value) => {
  const policy = create('tokens', value, DENSE_SHAPE);
  expect(policy.heads).toBeUndefined();
  DENSE_SHAPE.layers.forEach((_, layer) => {
    for (const numTokens of [1, 7, 50, 8191])
      expect(policy.budget(layer, numTokens, numTokens) ?? numTokens).toBe(numTokens);
  });
});
