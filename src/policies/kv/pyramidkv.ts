/** PyramidKV (arXiv 2406.02069): SnapKV's scores, with budgets that fall linearly from layer to layer. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { topEntries } from '../selection.ts';
import { kernelOption, windowOption, windowScores } from './snapkv.ts';

const options = z
  .strictObject({
    ...evictionOptions({ sink: 0, interval: null }),
    observation_window: windowOption,
    kernel: kernelOption,
    beta: z
      .number()
      .min(1)
      .default(20)
      .describe('how steep: the last layer keeps 1/beta of the average beyond what is protected; 1 = level'),
  })
  .superRefine(checkBudget);

export const pyramidkv = definePolicy({
  name: 'pyramidkv',
  family: 'kv',
  summary: 'as snapkv, with more entries in the first layers and fewer in the last ones',
  paper: '2406.02069',
  options,
  examples: [
    'pyramidkv',
    { policy: 'pyramidkv', max_entries: 32, observation_window: 8, recent: 8, kernel: 3, beta: 4 },
  ],
  needs: ['observed-attention'],
  create: ({ observation_window: window, kernel, beta, ...fields }) =>
    evicting(fields, {
      recent: Math.max(fields.recent, window),
      observes: 'window',
      window,
      select: (entries, count) => topEntries(windowScores(entries, kernel), count, entries),
      // As the paper and kvpress up to rounding: layers equally far from the middle share twice the average exactly.
      layerBudget(layer, numLayers, average, length) {
        const free = average - fields.sink - Math.max(fields.recent, window);
        if (numLayers < 2 || free <= 0) return average;
        const most = Math.min(free - free / beta, length - average);
        const rise = most * (1 - (2 * layer) / (numLayers - 1));
        return average + Math.sign(rise) * Math.round(Math.abs(rise));
      },
    }),
});
