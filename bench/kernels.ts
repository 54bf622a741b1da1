/**
 * What expected attention's arithmetic takes beside plain loops over the same numbers: `npx tsx bench/kernels.ts [--rounds 7]
 * [--head-dim 64] [--rows 8192]`. One query head; both take turns, and each row has the median in nanoseconds per row.
 */
import { parseArgs } from 'node:util';
import {
  addMoments,
  interleave,
  paddedDim,
  quadraticForms,
} from '../src/runtime/pruning/query-statistics.kernel.ts';
import { median } from './prompts.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '7' },
    'head-dim': { type: 'string', default: '64' },
    rows: { type: 'string', default: '8192' },
  },
});
const [rounds, d, n] = [Number(values.rounds), Number(values['head-dim']), Number(values.rows)];

const rows = Float32Array.from({ length: n * d }, (_, i) => Math.sin(i * i));
const mean = Float64Array.from({ length: d }, (_, i) => Math.sin(i));
const covariance = Float64Array.from({ length: d * d }, (_, i) => Math.cos((i % d) - Math.floor(i / d)));

/** The lower triangle of X'X. */
function plainProducts(): Float64Array {
  const products = new Float64Array(d * d);
  for (let row = 0; row < n * d; row += d)
    for (let i = 0; i < d; i++)
      for (let j = 0; j <= i; j++) products[i * d + j]! += rows[row + i]! * rows[row + j]!;
  return products;
}

function plainForms(): Float32Array {
  return Float32Array.from({ length: n }, (_, row) => {
    let [linear, quadratic] = [0, 0];
    for (let i = 0; i < d; i++) {
      const value = rows[row * d + i]!;
      linear += value * mean[i]!;
      quadratic += value * value * covariance[i * d + i]!;
      for (let j = 0; j < i; j++) quadratic += 2 * value * covariance[i * d + j]! * rows[row * d + j]!;
    }
    return linear / Math.sqrt(d) + quadratic / (2 * d);
  });
}

function ourProducts(): Float64Array {
  const dim = paddedDim(d);
  const products = new Float64Array(dim * dim);
  addMoments(new Float64Array(dim), products, interleaved(), 1);
  return products;
}

function interleaved(): Float64Array {
  return interleave(rows, { width: d, start: 0, headDim: d }, null);
}

const kernels: Record<string, () => unknown> = {
  'products, plain': plainProducts,
  'products, ours': ourProducts,
  'forms, plain': plainForms,
  'forms, ours': () => quadraticForms(interleaved(), n, mean, covariance),
};
const times = new Map(Object.keys(kernels).map((name) => [name, [] as number[]]));
for (let round = -1; round < rounds; round++) {
  for (const [name, kernel] of Object.entries(kernels)) {
    const start = performance.now();
    kernel();
    // The first round is for the compiler.
    if (round >= 0) times.get(name)!.push(((performance.now() - start) * 1e6) / n);
  }
}
for (const [name, all] of times) console.log(`${name.padEnd(16)} ${median(all).toFixed(0)} ns a row`);
