/** Quest (arXiv 2406.10774): each step reads the pages whose keys could at best give the highest products. */
import { z } from 'zod';
import { budgetOptions, checkLeast, toBudget } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { refuse } from '../option-checks.ts';

/** The paper finds little sparsity in the first two layers. */
const DEFAULT_DENSE_LAYERS = 2;

const options = z
  .strictObject({
    ...budgetOptions('reads'),
    page: z.int().min(1).default(16).describe('entries of a page'),
    dense_layers: z
      .int()
      .min(0)
      .optional()
      .describe(`layers, from the first on, that read everything; default: ${DEFAULT_DENSE_LAYERS}`),
  })
  .superRefine((fields, context) => {
    checkLeast(fields, context, fields.page, ['page']);
  });

export const quest = definePolicy({
  name: 'quest',
  family: 'kv',
  summary: 'nothing is evicted; each step reads only the pages that may hold what its query looks for',
  paper: '2406.10774',
  options,
  examples: ['quest', { policy: 'quest', max_entries: 32, page: 8, dense_layers: 0 }],
  needs: ['query'],
  create({ page, dense_layers: denseLayers, ...budget }, { layers }) {
    if (denseLayers !== undefined && denseLayers > layers.length)
      refuse(`expected at most the model's ${layers.length} layers, got ${denseLayers}`, 'dense_layers');
    return {
      kind: 'read',
      budget: toBudget(budget),
      blockSize: page,
      denseLayers: denseLayers ?? Math.min(DEFAULT_DENSE_LAYERS, layers.length),
      firstBlocks: 0,
      lastBlocks: 0,
      /** [2 * headDim] the least, then the greatest value of each channel. */
      summarise(keys, headDim) {
        const summary = new Float32Array(2 * headDim).fill(Infinity, 0, headDim).fill(-Infinity, headDim);
        keys.forEach((value, i) => {
          const channel = i % headDim;
          summary[channel] = Math.min(summary[channel] ?? 0, value);
          summary[headDim + channel] = Math.max(summary[headDim + channel] ?? 0, value);
        });
        return summary;
      },
      /** The greatest product with any key between both bounds. */
      score(query, summary) {
        return query.reduce((sum, value, i) => {
          const bound = summary[value < 0 ? i : query.length + i] ?? 0;
          return sum + value * bound;
        }, 0);
      },
    };
  },
});
