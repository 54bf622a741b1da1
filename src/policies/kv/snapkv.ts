/** SnapKV (arXiv 2404.14469): keeps what the last rows of the prompt attended to, with some neighbourhood. */
import { z } from 'zod';
import { definePolicy, type HeadEntries } from '../contract.ts';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { topEntries } from '../selection.ts';

export const windowOption = z
  .int()
  .min(1)
  .default(32)
  .describe('last rows of the prompt whose attention counts; they are kept, too');

export const kernelOption = z
  .int()
  .min(1)
  .refine((kernel) => kernel % 2 === 1, 'expected an odd number')
  .default(5)
  .describe('entries over which scores are averaged; odd');

const options = z
  .strictObject({
    ...evictionOptions({ sink: 0, interval: null }),
    observation_window: windowOption,
    kernel: kernelOption,
  })
  .superRefine(checkBudget);

/** Moving average of width `kernel` over [length] values, zeros beyond both ends (counted in the mean). */
export function averagePool(values: Float32Array, kernel: number): Float32Array {
  const half = Math.floor(kernel / 2);
  return values.map((_, i) => {
    let sum = 0;
    for (let j = Math.max(0, i - half); j <= Math.min(values.length - 1, i + half); j++)
      sum += values[j] ?? 0;
    return sum / kernel;
  });
}

/** [length] pooled attention of the observation window to the entries before it; the window itself is protected. */
export function windowScores(entries: HeadEntries, kernel: number): Float32Array {
  const before = entries.length - entries.numRecent;
  const scores = new Float32Array(entries.length);
  scores.set(averagePool(entries.attention().subarray(0, before), kernel));
  return scores;
}

export const snapkv = definePolicy({
  name: 'snapkv',
  family: 'kv',
  summary: 'each head keeps what the last rows of the prompt attended to',
  paper: '2404.14469',
  options,
  examples: [
    { policy: 'snapkv', keep: 0.5 },
    { policy: 'snapkv', max_entries: 64, observation_window: 16, kernel: 7, interval: 16 },
  ],
  needs: ['observed-attention'],
  create: ({ observation_window: window, kernel, ...fields }) =>
    evicting(fields, {
      recent: Math.max(fields.recent, window),
      observes: 'window',
      window,
      select: (entries, count) => topEntries(windowScores(entries, kernel), count, entries),
    }),
});
