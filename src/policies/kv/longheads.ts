/** LongHeads (arXiv 2402.10685): each head reads the first chunk, the last one and those that fit its query best. */
import { z } from 'zod';
import { budgetOptions, checkLeast, toBudget } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';

const FIRST_CHUNKS = 1;
const LAST_CHUNKS = 1;

const options = z
  .strictObject({
    ...budgetOptions('reads'),
    chunk: z.int().min(1).default(256).describe('entries of a chunk'),
  })
  .superRefine((fields, context) => {
    const least = (FIRST_CHUNKS + LAST_CHUNKS + 1) * fields.chunk;
    checkLeast(fields, context, least, ['the first chunk', 'the last one', 'one between']);
  });

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
}

/** [headDim] mean of the rows of `keys` [rows, headDim], weighed by `weights` [rows], which sum up to 1. */
function weighedMean(keys: Float32Array, weights: Float32Array, headDim: number): Float32Array {
  const mean = new Float32Array(headDim);
  keys.forEach((value, i) => {
    mean[i % headDim] = (mean[i % headDim] ?? 0) + value * (weights[Math.floor(i / headDim)] ?? 0);
  });
  return mean;
}

export const longheads = definePolicy({
  name: 'longheads',
  family: 'kv',
  summary: 'nothing is evicted; each step reads the first chunk, the last and those that fit its query best',
  paper: '2402.10685',
  options,
  examples: ['longheads', { policy: 'longheads', max_entries: 48, chunk: 16 }],
  needs: ['query'],
  create: ({ chunk, ...budget }) => ({
    kind: 'read',
    budget: toBudget(budget),
    blockSize: chunk,
    denseLayers: 0,
    firstBlocks: FIRST_CHUNKS,
    lastBlocks: LAST_CHUNKS,
    /**
     * The paper: c = softmax(r K' / sqrt(d)) K with r the mean output of attention inside the chunk. That takes the
     * chunk's queries, which no cache holds; the mean key stands in for r. Keys stay as they are rotated (the paper
     * turns selected chunks to new positions, for contexts longer than the model was trained on).
     */
    summarise(keys, headDim) {
      const numRows = keys.length / headDim;
      const mean = weighedMean(keys, new Float32Array(numRows).fill(1 / numRows), headDim);
      const products = Float32Array.from(
        { length: numRows },
        (_, row) => dot(mean, keys.subarray(row * headDim, (row + 1) * headDim)) / Math.sqrt(headDim),
      );
      const greatest = products.reduce((a, b) => Math.max(a, b), -Infinity);
      const exponentials = products.map((product) => Math.exp(product - greatest));
      const sum = exponentials.reduce((a, b) => a + b, 0);
      return weighedMean(
        keys,
        exponentials.map((value) => value / sum),
        headDim,
      );
    },
    score: dot,
  }),
});
