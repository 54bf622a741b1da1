/** H2O (arXiv 2306.14048): heavy hitters, the entries that got most attention from all rows so far, and recent ones. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { topEntries } from '../selection.ts';

const options = z
  .strictObject({
    ...evictionOptions({ sink: 0, recent: 0 }),
    recent_share: z
      .number()
      .min(0)
      .max(1)
      .default(0.5)
      .describe('share of the budget that goes to the last tokens, if that is more than recent'),
  })
  .superRefine(checkBudget);

export const h2o = definePolicy({
  name: 'h2o',
  family: 'kv',
  summary: 'each head keeps what all rows so far attended to most, and the most recent tokens',
  paper: '2306.14048',
  options,
  examples: ['h2o', { policy: 'h2o', max_entries: 24, sink: 2, recent: 4, recent_share: 0.25, interval: 8 }],
  needs: ['accumulated-attention'],
  create: ({ recent_share: recentShare, ...fields }) =>
    evicting(fields, {
      observes: 'all',
      select(entries, count) {
        const { numSinks } = entries;
        const shared = Math.min(Math.floor(count * recentShare), count - numSinks);
        const numRecent = Math.max(entries.numRecent, shared);
        return topEntries(entries.attention(), count, { numSinks, numRecent });
      },
    }),
});
