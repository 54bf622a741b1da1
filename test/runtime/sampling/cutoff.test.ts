/** Radix selection against sorting. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { findCutoff } from '../../../src/runtime/sampling/cutoff.kernel.ts';

/** Enough values, near and far from each other, that every digit gets its turn. */
const arbitraryValues = fc
  .tuple(
    fc.array(fc.double({ min: -1e3, max: 1e3, noNaN: true }), { minLength: 1, maxLength: 30 }),
    fc.integer({ min: 1, max: 40 }),
    fc.constantFrom(0, 1e-14, 1e-9, 1),
  )
  .map(([values, copies, step]) =>
    Float64Array.from({ length: values.length * copies }, (_, i) => {
      const value = values[i % values.length]!;
      return value + Math.floor(i / values.length) * step * Math.abs(value) + 0;
    }),
  );

it('finds the k-th largest value and how many are larger', () => {
  fc.assert(
    fc.property(arbitraryValues, fc.double({ min: 0, max: 1, noNaN: true }), (values, share) => {
      const k = 1 + Math.floor(share * (values.length - 1));
      const expected = values.toSorted((a, b) => b - a)[k - 1]!;
      const massAbove = values.filter((value) => value > expected).length;
      expect(findCutoff(values.slice(), k, 'count')).toEqual({ value: expected, massAbove });
    }),
  );
});

it('finds where the sum reaches the target', () => {
  fc.assert(
    fc.property(arbitraryValues, fc.double({ min: 0.001, max: 1.001, noNaN: true }), (signed, share) => {
      const values = signed.map((value) => Math.abs(value) + 1e-3);
      const total = values.reduce((sum, value) => sum + value, 0);
      const target = share * total;
      const { value, massAbove } = findCutoff(values.slice(), target, 'sum');
      const above = values.filter((other) => other > value).reduce((sum, other) => sum + other, 0);
      const atLeast = values.filter((other) => other >= value).reduce((sum, other) => sum + other, 0);
      const slack = 1e-12 * total;
      expect(Math.abs(massAbove - above)).toBeLessThan(slack);
      expect(massAbove).toBeLessThan(target);
      expect(atLeast).toBeGreaterThan(Math.min(target, total) - slack);
      expect(values).toContain(value);
    }),
  );
});
