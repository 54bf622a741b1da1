/** The arithmetic of the query statistics against the formulas it stands for, row by row in plain loops. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RopeTable } from '../../src/graph/rope.ts';
import {
  addMoments,
  addSoftmax,
  interleave,
  paddedDim,
  quadraticForms,
  unrotate,
} from '../../src/runtime/pruning/query-statistics.kernel.ts';
import type { Model } from '../../src/runtime/model.ts';
import { QueryStatistics } from '../../src/runtime/pruning/query-statistics.ts';

const value = fc.float({ min: -4, max: 4, noNaN: true });
const rowsOf = (numRows: number, dim: number) =>
  fc.array(fc.array(value, { minLength: dim, maxLength: dim }), { minLength: numRows, maxLength: numRows });

/** Rows of some head dimension, odd ones and those that are no multiple of four among them. */
const matrices = fc
  .record({ numRows: fc.nat({ max: 11 }), dim: fc.integer({ min: 1, max: 10 }) })
  .chain(({ numRows, dim }) => fc.record({ dim: fc.constant(dim), rows: rowsOf(numRows, dim) }));

function matrixOf(rows: readonly number[][]): Float32Array {
  return Float32Array.from(rows.flat());
}

function blocksOf(rows: readonly number[][], headDim: number): Float64Array {
  return interleave(matrixOf(rows), { width: headDim, start: 0, headDim }, null);
}

function expectClose(actual: ArrayLike<number>, expected: readonly number[], tolerance: number): void {
  expect(actual).toHaveLength(expected.length);
  for (const [i, number] of expected.entries())
    expect(Math.abs(actual[i]! - number), `item ${i}`).toBeLessThanOrEqual(
      tolerance * Math.max(1, Math.abs(number)),
    );
}

describe('interleave', () => {
  it('takes the columns of one head from the rows that are asked for', () => {
    const width = 7;
    const matrix = Float32Array.from({ length: 6 * width }, (_, i) => i);
    const rows = Int32Array.of(0, 2, 3, 4, 5);
    const blocks = interleave(matrix, { width, start: 3, headDim: 3 }, rows);
    expect(blocks).toHaveLength(2 * 4 * 4);
    for (let r = 0; r < 8; r++)
      for (let i = 0; i < 4; i++) {
        const isThere = r < rows.length && i < 3;
        expect(blocks[Math.floor(r / 4) * 16 + i * 4 + (r % 4)]).toBe(isThere ? rows[r]! * width + 3 + i : 0);
      }
  });
});

describe('unrotate', () => {
  it.each([1, 1.25])('undoes RoPE of rows at any position, scaled by %d', (scale) => {
    const headDim = 6;
    const positions = Int32Array.of(3, 17, 18, 400, 401);
    const rotation = new RopeTable({ inverse: Float64Array.of(1, 0.1, 0.01), scale }).rows(positions);
    const original = Array.from(positions, (position) =>
      Array.from({ length: headDim }, (_, i) => Math.sin(position + 2 * i)),
    );
    const rotated = original.map((row, r) =>
      row.map((x, i) => {
        const [c, s] = [rotation.cos[r * 3 + (i % 3)]!, rotation.sin[r * 3 + (i % 3)]!];
        return i < 3 ? x * c - row[i + 3]! * s : x * c + row[i - 3]! * s;
      }),
    );
    const blocks = blocksOf(rotated, headDim);
    unrotate(blocks, headDim, rotation, positions.length);
    expectClose(blocks, [...blocksOf(original, headDim)], 1e-6);
  });
});

describe('addMoments', () => {
  it('adds the weighted sum and products of all rows', () => {
    fc.assert(
      fc.property(matrices, fc.constantFrom(1, 16), ({ rows, dim }, weight) => {
        const stride = paddedDim(dim);
        const [sum, products] = [new Float64Array(stride).fill(1), new Float64Array(stride ** 2).fill(2)];
        addMoments(sum, products, blocksOf(rows, dim), weight);
        const total = (of: (row: number[]) => number): number =>
          rows.reduce((whole, row) => whole + weight * of(row), 0);
        for (let i = 0; i < dim; i++) {
          expect(sum[i]).toBeCloseTo(1 + total((row) => row[i]!), 8);
          for (let j = 0; j <= i; j++)
            expect(products[i * stride + j]).toBeCloseTo(2 + total((row) => row[i]! * row[j]!), 8);
        }
      }),
    );
  });
});

describe('quadraticForms', () => {
  it('is k.mean / sqrt(d) + k C k / 2d', () => {
    const inputs = matrices.chain(({ rows, dim }) =>
      fc.record({ rows: fc.constant(rows), samples: rowsOf(dim, dim), mean: rowsOf(1, dim) }),
    );
    fc.assert(
      fc.property(inputs, ({ rows, samples, mean: [mean = []] }) => {
        const d = mean.length;
        // Symmetric, as covariances are.
        const at = (i: number, j: number): number => samples[i]![j]! + samples[j]![i]!;
        const covariance = Float64Array.from({ length: d * d }, (_, i) => at(Math.floor(i / d), i % d));
        const expected = rows.map((k) => {
          const linear = k.reduce((sum, x, i) => sum + x * mean[i]!, 0) / Math.sqrt(d);
          const quadratic = k.reduce((sum, x, i) => sum + k.reduce((s, y, j) => s + x * at(i, j) * y, 0), 0);
          return linear + quadratic / (2 * d);
        });
        const actual = quadraticForms(blocksOf(rows, d), rows.length, Float64Array.from(mean), covariance);
        expectClose(actual, expected, 1e-5);
      }),
    );
  });
});

describe('addSoftmax', () => {
  it('adds a share of the softmax', () => {
    fc.assert(
      fc.property(fc.array(fc.float({ min: -90, max: 90, noNaN: true })), (logits) => {
        const into = new Float32Array(logits.length).fill(0.5);
        addSoftmax(into, Float32Array.from(logits), 0.25);
        const top = Math.max(...logits);
        const total = logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0);
        const expected = logits.map((logit) => 0.5 + (0.25 * Math.exp(logit - top)) / total);
        expectClose(into, expected, 1e-6);
      }),
    );
  });
});

describe('QueryStatistics', () => {
  const [queryHeads, kvHeads, headDim] = [2, 1, 4];
  const width = (queryHeads + 2 * kvHeads) * headDim;
  const model = {
    architecture: { layers: [{ attention: { queryHeads, kvHeads, headDim }, rope: true }] },
    rope: new RopeTable({ inverse: Float64Array.of(1, 0.01), scale: 1 }),
  } as unknown as Model;
  const [numRows, skip] = [700, 3];
  const projected = Float32Array.from({ length: numRows * width }, (_, i) => 2 * Math.sin(i * i));
  const keys = Float32Array.from({ length: 9 * headDim }, (_, i) => 3 * Math.cos(i * i));
  const horizon = { next: numRows, numFuture: 20, skip };

  function added(statistics: QueryStatistics, begin: number, end: number, step: number): QueryStatistics {
    for (let row = begin; row < end; row += step) {
      const last = Math.min(end, row + step);
      const positions = Int32Array.from({ length: last - row }, (_, i) => row + i);
      statistics.add(0, projected.subarray(row * width, last * width), positions);
    }
    return statistics;
  }
  const expectedBy = (statistics: QueryStatistics) => statistics.expectedAttention(0, 0, keys, horizon);
  const whole = [...expectedBy(added(new QueryStatistics(model, skip), 0, numRows, numRows))];

  it('is a distribution over the entries that take part', () => {
    expect(whole.slice(0, skip)).toEqual([0, 0, 0]);
    expect(whole.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
    expect(Math.max(...whole)).toBeGreaterThan(2 * Math.min(...whole.slice(skip)));
  });

  it.each([1, 7, 256])('does not depend on how the rows come: %d at a time', (step) => {
    expectClose(expectedBy(added(new QueryStatistics(model, skip), 0, numRows, step)), whole, 1e-6);
  });

  it('goes on from a copy without changing the original', () => {
    const original = added(new QueryStatistics(model, skip), 0, 600, 256);
    const before = expectedBy(original);
    expectClose(expectedBy(added(original.clone(), 600, numRows, 64)), whole, 1e-6);
    expect(expectedBy(original)).toEqual(before);
  });

  it('expects nothing before the first row that counts', () => {
    const statistics = added(new QueryStatistics(model, skip), 0, skip, 1);
    expect([...expectedBy(statistics)]).toEqual(new Array(9).fill(0));
  });
});
