/** What is particular to each tokens policy: its schedule, its ranking, and what its options change. */
import { describe, expect, it } from 'vitest';
import type { ModelShape } from '../../src/policies/index.ts';
import { create } from './cases.ts';
import { PRUNED_SHAPE, SHAPES } from './inputs.ts';

const DEEP = SHAPES['twenty-four layers']!;
const TWO = SHAPES['two layers, one KV head']!;

/** Tokens that enter each layer when `numSeen` enter the first. */
function enter(value: unknown, model: ModelShape, numSeen: number): number[] {
  const policy = create('tokens', value, model);
  let numAlive = numSeen;
  return model.layers.map((_, layer) => {
    const entered = layer === 0 ? null : policy.budget(layer - 1, numAlive, numSeen);
    if (policy.rest === 'pass') return entered ?? numSeen;
    numAlive = entered ?? numAlive;
    return numAlive;
  });
}

function alive(importance: readonly number[]) {
  return {
    layer: 0,
    numLayers: 2,
    positions: Int32Array.from(importance, (_, i) => i),
    importance: Float32Array.from(importance),
  };
}

describe('lazyllm', () => {
  it('cuts to 70, 49 and 34 % after 30, 60 and 90 % of the layers', () => {
    expect(enter('lazyllm', DEEP, 1000)).toEqual([
      ...Array<number>(7).fill(1000),
      ...Array<number>(7).fill(700),
      ...Array<number>(8).fill(490),
      ...Array<number>(2).fill(343),
    ]);
    // Cuts that fall on one layer are one, as deep as all together.
    expect(enter('lazyllm', TWO, 50)).toEqual([50, 25]);
  });

  it('takes stages by layer or by share of the layers', () => {
    const byShare = {
      policy: 'lazyllm',
      stages: [
        { after: 0.25, keep: 0.5 },
        { after: 0.5, keep: 0.2 },
      ],
    };
    const byLayer = {
      policy: 'lazyllm',
      stages: [
        { layer: 5, keep: 0.5 },
        { layer: 11, keep: 0.2 },
      ],
    };
    expect(enter(byShare, DEEP, 1000)).toEqual(enter(byLayer, DEEP, 1000));
    expect(enter(byShare, DEEP, 1000).slice(4, 14)).toEqual([
      1000, 1000, 500, 500, 500, 500, 500, 500, 100, 100,
    ]);
  });

  it('moves default stages down to layers with attention', () => {
    const six = SHAPES['six layers, as the demo model']!;
    const without = (...missing: readonly number[]): ModelShape => ({
      gates: null,
      layers: six.layers.map((layer, i) =>
        missing.includes(i) ? { ...layer, queryHeads: 0, kvHeads: 0 } : layer,
      ),
    });
    expect(enter('lazyllm', six, 1000)).toEqual([1000, 1000, 700, 700, 490, 343]);
    expect(enter('lazyllm', without(1, 3), 1000)).toEqual([1000, 700, 700, 490, 490, 343]);
    expect(enter('lazyllm', without(3, 4, 2), 1000)).toEqual([1000, 1000, 343, 343, 343, 343]);
  });

  it('keeps what the last token attends to, revives unless told otherwise', () => {
    const policy = create('tokens', 'lazyllm', TWO);
    expect(policy).toMatchObject({ rest: 'leave', observes: 'last', revives: true });
    expect([...policy.select(alive([0.1, 0.4, 0.3, 0.2, 0]), 3)]).toEqual([1, 2, 4]);
    expect(create('tokens', { policy: 'lazyllm', prefill_only: true }, TWO).revives).toBe(false);
  });
});

describe('random', () => {
  const stages = [
    { layer: 1, keep: 0.5 },
    { layer: 9, keep: 0.5 },
  ];
  const select = (seed: number, budget: number): number[] => [
    ...create('tokens', { policy: 'random', stages, seed }, DEEP).select(
      alive(Array<number>(400).fill(0)),
      budget,
    ),
  ];

  it('has the stages of lazyllm', () => {
    expect(enter({ policy: 'random', stages }, DEEP, 100)).toEqual(
      enter({ policy: 'lazyllm', stages }, DEEP, 100),
    );
    expect(enter('random', DEEP, 100)).toEqual(enter('lazyllm', DEEP, 100));
  });

  it('chooses other tokens for other seeds, spread over the prompt', () => {
    expect(select(1, 200)).not.toEqual(select(2, 200));
    const inFirstHalf = select(1, 200).filter((i) => i < 200).length;
    expect(inFirstHalf).toBeGreaterThan(70);
    expect(inFirstHalf).toBeLessThan(130);
  });

  it('keeps of a sample what it would have kept at once', () => {
    const half = select(3, 200);
    const policy = create('tokens', { policy: 'random', seed: 3 }, DEEP);
    const tokens = { ...alive(half), positions: Int32Array.from(half) };
    const rest = [...policy.select(tokens, 50)].map((i) => half[i]);
    expect(rest).toEqual(select(3, 50));
  });
});

describe('spatten', () => {
  it('keeps shares of the prompt that fall linearly and are token_keep on average', () => {
    for (const keep of [0.3, 0.5, 0.7, 0.9]) {
      const counts = enter({ policy: 'spatten', token_keep: keep }, DEEP, 10_000);
      expect(counts.slice(0, 4)).toEqual([10_000, 10_000, 10_000, 10_000]);
      const pruned = counts.slice(4);
      const mean = pruned.reduce((a, b) => a + b, 0) / pruned.length;
      expect(Math.abs(mean - keep * 10_000)).toBeLessThan(1);
      const steps = pruned.slice(1).map((count, i) => pruned[i]! - count);
      expect(Math.max(...steps) - Math.min(...steps)).toBeLessThanOrEqual(1);
      expect(pruned[0]).toBe(Math.min(10_000, 15_000 * keep));
    }
    expect(enter({ policy: 'spatten', token_keep: 0.5 }, TWO, 51)).toEqual([51, 25]);
  });

  it('never asks for more tokens than there are', () => {
    expect(create('tokens', 'spatten', DEEP).budget(6, 10, 10_000)).toBe(10);
  });

  it('silences query heads on request only, the weakest first', () => {
    expect(create('tokens', 'spatten', DEEP).heads).toBeUndefined();
    const { heads } = create('tokens', { policy: 'spatten', head_keep: 0.75 }, DEEP);
    const counts = DEEP.layers.map((_, layer) => (layer === 0 ? null : heads!.budget(layer - 1, 14)));
    expect(counts.slice(0, 9)).toEqual([null, null, null, null, null, null, null, null, null]);
    expect([counts[9], counts[16], counts[23]]).toEqual([13, 10, 7]);
    expect([...heads!.select(Float32Array.of(4, 1, 3, 2), 2)]).toEqual([0, 2]);
  });
});

describe('ftp', () => {
  it('lets tokens pass the given layers by, all but the first if none are given', () => {
    expect(enter({ policy: 'ftp', keep: 0.25, layers: [3, 1] }, PRUNED_SHAPE, 80)).toEqual([
      80, 20, 80, 20, 80,
    ]);
    expect(enter('ftp', PRUNED_SHAPE, 100)).toEqual([100, 70, 70, 70, 70]);
  });

  it('keeps the first and the last token, and both where the share is less', () => {
    const policy = create('tokens', { policy: 'ftp', keep: 0.01 }, TWO);
    expect(policy).toMatchObject({ rest: 'pass', revives: false });
    expect(policy.budget(0, 50, 50)).toBe(2);
    expect(policy.budget(0, 1, 1)).toBe(1);
    expect([...policy.select(alive([0, 5, 9, 1]), 2)]).toEqual([0, 3]);
    expect([...policy.select(alive([0, 5, 9, 1]), 3)]).toEqual([0, 2, 3]);
    expect([...policy.select(alive([0, 5, 9, 1]), 1)]).toEqual([3]);
  });
});
