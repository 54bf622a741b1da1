/** The warpers against transformers' processors, and the laws of each. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createSamplingWorkspace } from '../../../src/runtime/sampling/distribution.kernel.ts';
import { penalize } from '../../../src/runtime/sampling/processors.kernel.ts';
import { warp, type WarpParams } from '../../../src/runtime/sampling/warp.kernel.ts';
import { arbitraryLogits, descending, naiveSoftmax } from './naive.ts';

interface FixtureCase {
  logits: number[];
  context_ids: number[];
  repetition_penalty: number | null;
  temperature: number | null;
  top_k: number | null;
  top_p: number | null;
  min_p: number | null;
  support: number[];
  probs: number[];
}

const path = new URL('../../fixtures/spec/sampler_warpers.json', import.meta.url);
const fixtures = JSON.parse(readFileSync(path, 'utf8')) as FixtureCase[];

/** Dense probabilities [vocabSize]. */
function warped(logits: Float32Array, params: Partial<WarpParams>): number[] {
  const workspace = createSamplingWorkspace(logits.length);
  const { ids, probs } = warp(logits, { temperature: 1, topK: 0, topP: 1, minP: 0, ...params }, workspace);
  const dense = new Array<number>(logits.length).fill(0);
  ids.forEach((id, i) => (dense[id] = probs[i]!));
  return dense;
}

function support(probs: number[]): number[] {
  return [...probs.keys()].filter((id) => probs[id]! > 0);
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

describe('transformers', () => {
  it.each(fixtures.map((fixture, i) => [i, fixture] as const))('case %i', (_, fixture) => {
    const logits = Float32Array.from(fixture.logits);
    const repetitionPenalty = fixture.repetition_penalty ?? 1;
    const occurrences = new Map(fixture.context_ids.map((id) => [id, 0]));
    penalize({ repetitionPenalty, presencePenalty: 0, frequencyPenalty: 0 })(logits, {
      numTokens: 0,
      occurrences,
    });
    const probs = warped(logits, {
      temperature: fixture.temperature ?? 1,
      topK: fixture.top_k ?? 0,
      topP: fixture.top_p ?? 1,
      minP: fixture.min_p ?? 0,
    });
    expect(support(probs)).toEqual(fixture.support);
    probs.forEach((prob, id) => {
      expect(Math.abs(prob - fixture.probs[id]!)).toBeLessThan(1e-5);
    });
  });
});

describe('laws', () => {
  const temperatures = fc.double({ min: 0.05, max: 5, noNaN: true });
  const shares = fc.double({ min: 0.01, max: 0.999, noNaN: true });

  it('temperature alone is softmax', () => {
    fc.assert(
      fc.property(arbitraryLogits, temperatures, (logits, temperature) => {
        const expected = naiveSoftmax(logits, temperature);
        warped(logits, { temperature }).forEach((prob, id) => {
          expect(prob).toBeCloseTo(expected[id]!, 9);
        });
      }),
    );
  });

  it('top-k keeps the k largest logits, ties by lower id, and their ratios', () => {
    fc.assert(
      fc.property(arbitraryLogits, fc.integer({ min: 1, max: 50 }), (logits, topK) => {
        const probs = warped(logits, { topK, temperature: 3 });
        const kept = descending(logits).slice(0, topK);
        expect(support(probs)).toEqual(kept.sort((a, b) => a - b));
        const expected = naiveSoftmax(
          kept.map((id) => logits[id]!),
          3,
        );
        kept.forEach((id, i) => {
          expect(probs[id]).toBeCloseTo(expected[i]!, 9);
        });
      }),
    );
  });

  it('top-p keeps a smallest set that has the mass', () => {
    fc.assert(
      fc.property(arbitraryLogits, shares, temperatures, (logits, topP, temperature) => {
        const full = naiveSoftmax(logits, temperature);
        const probs = warped(logits, { topP, temperature });
        const kept = support(probs);
        const masses = kept.map((id) => full[id]!);
        expect(sum(masses)).toBeGreaterThan(topP - 1e-9);
        expect(sum(masses) - Math.min(...masses)).toBeLessThan(topP + 1e-9);
        const left = full.filter((_, id) => probs[id] === 0);
        expect(Math.max(0, ...left)).toBeLessThanOrEqual(Math.min(...masses) * (1 + 1e-9));
        expect(sum(probs)).toBeCloseTo(1, 9);
      }),
    );
  });

  it('min-p keeps what is at least that share of the largest', () => {
    fc.assert(
      fc.property(arbitraryLogits, shares, (logits, minP) => {
        const full = naiveSoftmax(logits);
        const max = Math.max(...full);
        const probs = warped(logits, { minP });
        full.forEach((prob, id) => {
          if (prob > minP * max * (1 + 1e-9)) expect(probs[id]).toBeGreaterThan(0);
          if (prob < minP * max * (1 - 1e-9)) expect(probs[id]).toBe(0);
        });
        expect(sum(probs)).toBeCloseTo(1, 9);
      }),
    );
  });

  it('cuts inside ties keep the lower ids', () => {
    const logits = new Float32Array([0, 1, 1, 1, 1]);
    expect(support(warped(logits, { topK: 2 }))).toEqual([1, 2]);
    expect(support(warped(logits, { topP: 0.5 }))).toEqual([1, 2, 3]);
    const zeros = Float32Array.from({ length: 1000 }, (_, id) => (id % 2 === 0 ? -0 : 0));
    expect(support(warped(zeros, { topK: 600 }))).toEqual([...zeros.keys()].slice(0, 600));
  });

  it('selects in a vocabulary too large to sort', () => {
    const logits = Float32Array.from({ length: 40_000 }, (_, i) => 8 * Math.sin(i * i));
    const full = naiveSoftmax(logits, 1.5);
    const order = descending(logits);
    for (const topK of [1, 40, 600, 5000]) {
      expect(support(warped(logits, { topK }))).toEqual(order.slice(0, topK).sort((a, b) => a - b));
    }
    let mass = 0;
    const size = order.findIndex((id) => (mass += full[id]!) >= 0.9) + 1;
    expect(support(warped(logits, { topP: 0.9, temperature: 1.5 }))).toEqual(
      order.slice(0, size).sort((a, b) => a - b),
    );
  });

  it('gives masked tokens nothing and a vanishing temperature everything to the largest', () => {
    const logits = Float32Array.of(1, -Infinity, 3, 2);
    expect(support(warped(logits, {}))).toEqual([0, 2, 3]);
    expect(support(warped(logits, { topK: 4, topP: 0.999 }))).toEqual([0, 2, 3]);
    expect(warped(logits, { temperature: 1e-320 })).toEqual([0, 0, 1, 0]);
  });
});
