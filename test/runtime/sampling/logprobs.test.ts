/** Log-probabilities against plain float64 arithmetic. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { expNegative } from '../../../src/runtime/sampling/exp.kernel.ts';
import { tokenLogprobs } from '../../../src/runtime/sampling/logprobs.kernel.ts';
import { arbitraryLogits, descending, naiveSoftmax } from './naive.ts';

it('gives the token and the most probable alternatives, ties by lower id', () => {
  fc.assert(
    fc.property(arbitraryLogits, fc.nat(), fc.integer({ min: 0, max: 20 }), (logits, pick, numTop) => {
      const tokenId = pick % logits.length;
      const expected = naiveSoftmax(logits).map(Math.log);
      const { logprob, top } = tokenLogprobs(logits, tokenId, numTop);
      expect(logprob).toBeCloseTo(expected[tokenId]!, 9);
      expect(top.map(([id]) => id)).toEqual(descending(logits).slice(0, numTop));
      for (const [id, value] of top) expect(value).toBeCloseTo(expected[id]!, 9);
    }),
  );
});

it('stays finite for logits whose exp overflows', () => {
  expect(tokenLogprobs(Float32Array.of(1000, 1000, -1000), 1, 0).logprob).toBeCloseTo(-Math.LN2, 12);
  expect(tokenLogprobs(Float32Array.of(1000, 1000, -1000), 2, 0).logprob).toBeCloseTo(-2000 - Math.LN2, 9);
});

it('offers no alternative that has no probability', () => {
  expect(tokenLogprobs(Float32Array.of(-Infinity, 0, -Infinity), 1, 3).top).toEqual([[1, 0]]);
});

it('refuses NaN', () => {
  expect(() => tokenLogprobs(Float32Array.of(0, NaN), 0, 0)).toThrow('got NaN for token 1');
});

it('computes exp(-x) to eleven digits', () => {
  for (const edge of [0, Infinity]) expect(expNegative(edge)).toBe(Math.exp(-edge));
  fc.assert(
    fc.property(fc.double({ min: 0, max: 100, noNaN: true }), (x) => {
      expect(Math.abs(expNegative(x) / Math.exp(-x) - 1)).toBeLessThan(1e-11);
    }),
    { numRuns: 1000 },
  );
});
