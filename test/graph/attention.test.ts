/** The numbers and names that a run and its graph agree on. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AttentionShape } from '../../src/graph/architecture.ts';
import { cacheInputs, cacheSlots } from '../../src/graph/attention.ts';
import {
  attentionVariants,
  decodeSizes,
  distinctShapes,
  VariantTable,
} from '../../src/graph/attention-variants.ts';

const shape: fc.Arbitrary<AttentionShape> = fc
  .record({ kvHeads: fc.integer({ min: 1, max: 64 }), group: fc.integer({ min: 1, max: 4 }) })
  .map(({ kvHeads, group }) => ({ queryHeads: kvHeads * group, kvHeads, headDim: 16 }));
const layers = fc.array(
  fc.option(
    shape.map((attention) => ({ attention })),
    { nil: { attention: null } },
  ),
  {
    minLength: 1,
    maxLength: 6,
  },
);

describe('attention codes', () => {
  it('are 0, 1, 2 ... for what decode steps and prompts use of every shape, then for the rest, each once', () => {
    fc.assert(
      fc.property(layers, (list) => {
        const shapes = distinctShapes(list);
        const codes = new VariantTable(shapes, (code) => code);
        const variants = attentionVariants(shapes);
        expect(variants.map((variant) => codes.get(structuredClone(variant)))).toEqual(
          variants.map((_, i) => i),
        );
        const numCommon = shapes.length * (decodeSizes(shapes).length + 1);
        const common = variants.slice(0, numCommon);
        expect(common.every(({ kind }) => kind === 'decode' || kind === 'tile')).toBe(true);
        expect(common.every((variant) => 'signal' in variant && variant.signal === 'none')).toBe(true);
        expect(variants[numCommon]).toEqual({ kind: 'none' });
      }),
    );
  });

  it('do not exist for what the graph cannot report', () => {
    const one = { queryHeads: 2, kvHeads: 1, headDim: 8 };
    const codes = new VariantTable([one], (code) => code);
    expect(() => codes.get({ kind: 'decode', shape: one, slots: 1, signal: 'columnSums' })).toThrow(
      'columnSums',
    );
    expect(() => codes.get({ kind: 'skip', shape: { ...one, headDim: 16 } })).toThrow('skip');
  });
});

describe('distinctShapes', () => {
  it('names every shape of the layers once and nothing for layers without attention', () => {
    const a = { queryHeads: 4, kvHeads: 2, headDim: 16 };
    const b = { queryHeads: 4, kvHeads: 4, headDim: 16 };
    const none = { attention: null };
    expect(distinctShapes([none, { attention: a }, { attention: b }, none, { attention: { ...a } }])).toEqual(
      [a, b],
    );
    expect(distinctShapes([none])).toEqual([]);
  });
});

describe('decode slots', () => {
  const withHeads = (kvHeads: number): AttentionShape[] => [{ queryHeads: kvHeads, kvHeads, headDim: 8 }];

  it('ascend from 1 to 8 or more in usual models, and stop early in wide ones, so that inputs stay bounded', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), (kvHeads) => {
        const sizes = decodeSizes(withHeads(kvHeads));
        expect(sizes[0]).toBe(1);
        expect(sizes).toEqual([...new Set(sizes)].sort((a, b) => a - b));
        const most = sizes.at(-1)!;
        if (kvHeads <= 16) expect(most).toBeGreaterThanOrEqual(8);
        if (most > 1) expect(most * kvHeads).toBeLessThanOrEqual(128);
      }),
    );
    expect(decodeSizes([])).toEqual(decodeSizes(withHeads(1)));
  });

  it('have inputs of their own for every head of the widest shape', () => {
    const shapes = [...withHeads(2), ...withHeads(5)];
    expect(cacheSlots(shapes)).toEqual({ heads: 5, slots: decodeSizes(shapes).at(-1) });
    const names = Array.from({ length: 8 * 20 }, (_, i) => Object.values(cacheInputs(i >> 4, i & 15))).flat();
    expect(new Set(names).size).toBe(names.length);
  });
});
