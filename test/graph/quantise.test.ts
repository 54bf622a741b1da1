/** The kernels that lay out weights: quantisation within half a step, transposition without loss. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantiseRow, quantiseRows, transposeInto } from '../../src/graph/quantise.kernel.ts';
import { noise } from './noise.ts';

function quantise(source: Float32Array, numRows: number): { q: Int8Array; scales: Float32Array } {
  const q = new Int8Array(source.length);
  const scales = new Float32Array(numRows);
  quantiseRows(q, scales, source, numRows, source.length / numRows);
  return { q, scales };
}

/** Finite rows of equal width; weights, and any float32 there is. */
const rows = fc
  .tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 9 }))
  .chain(([numRows, columns]) =>
    fc.record({
      numRows: fc.constant(numRows),
      source: fc.oneof(
        fc.float32Array({
          minLength: numRows * columns,
          maxLength: numRows * columns,
          noNaN: true,
          noDefaultInfinity: true,
        }),
        fc.float32Array({
          minLength: numRows * columns,
          maxLength: numRows * columns,
          noNaN: true,
          min: -1,
          max: 1,
        }),
      ),
    }),
  );

describe('quantiseRows', () => {
  it('is off by half a step at most, and the largest value of a row becomes 127', () => {
    fc.assert(
      fc.property(rows, ({ source, numRows }) => {
        const { q, scales } = quantise(source, numRows);
        const columns = source.length / numRows;
        for (let row = 0; row < numRows; row++) {
          const scale = scales[row]!;
          const weights = source.subarray(row * columns, (row + 1) * columns);
          const codes = q.subarray(row * columns, (row + 1) * columns);
          const largest = weights.reduce((a, w) => Math.max(a, Math.abs(w)), 0);
          // A hair more than half: the quotient is rounded to double precision before it is rounded to a whole number.
          weights.forEach((w, i) => {
            expect(Math.abs(w - codes[i]! * scale)).toBeLessThanOrEqual((scale / 2) * (1 + 1e-12));
          });
          const largestCode = codes.reduce((a, code) => Math.max(a, Math.abs(code)), 0);
          if (largest === 0) expect(scale).toBe(1);
          else if (largest > 127 * 2 ** -126) expect(largestCode).toBe(127);
          else expect(largestCode).toBeLessThanOrEqual(127);
        }
      }),
    );
  });

  it('keeps signs and treats rows apart', () => {
    const { q, scales } = quantise(Float32Array.of(127, -64, 0, 0, 0, 0, -0.127, 0.001, 0.064), 3);
    expect([...q]).toEqual([127, -64, 0, 0, 0, 0, -127, 1, 64]);
    expect([...scales]).toEqual([1, 1, Math.fround(0.001)]);
  });

  it.each([NaN, Infinity, -Infinity])('marks a row that holds %d by its scale', (value) => {
    const { scales } = quantise(Float32Array.of(1, 2, value, 3, 4, 5, 6, 7), 2);
    expect(Number.isFinite(scales[0])).toBe(false);
    expect(scales[1]).toBe(Math.fround(7 / 127));
  });

  it('comes back through dequantiseRow', () => {
    const source = noise(3, 40);
    const { q, scales } = quantise(source, 1);
    const target = new Float32Array(50).fill(9);
    dequantiseRow(target, 5, q, scales[0]!);
    expect([...target.subarray(5, 45)]).toEqual([...q].map((code) => Math.fround(code * scales[0]!)));
    expect(target[4]).toBe(9);
    expect(target[45]).toBe(9);
  });
});

describe('transposeInto', () => {
  it('puts blocks of rows in their columns and touches no others', () => {
    const block = fc.record({
      numRows: fc.integer({ min: 1, max: 40 }),
      before: fc.nat({ max: 5 }),
      after: fc.nat({ max: 5 }),
    });
    fc.assert(
      fc.property(block, fc.integer({ min: 1, max: 150 }), ({ numRows, before, after }, columns) => {
        const source = Float32Array.from({ length: numRows * columns }, (_, i) => i + 1);
        const totalRows = before + numRows + after;
        const target = new Float32Array(totalRows * columns);
        transposeInto(target, source, before, numRows, columns, totalRows);
        const expected = target.map((_, i) => {
          const row = (i % totalRows) - before;
          return row >= 0 && row < numRows ? source[row * columns + Math.floor(i / totalRows)]! : 0;
        });
        expect(Buffer.compare(Buffer.from(target.buffer), Buffer.from(expected.buffer))).toBe(0);
      }),
    );
  });
});
