/** Random entries stay: the baseline that every evicting policy must beat. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { uniform } from '../random.ts';
import { topEntries } from '../selection.ts';

const options = z
  .strictObject({
    ...evictionOptions(),
    seed: z
      .int()
      .min(0)
      .max(2 ** 32 - 1)
      .default(0)
      .describe('equal seeds choose equal positions, others in each head'),
  })
  .superRefine(checkBudget);

export const randomEntries = definePolicy({
  name: 'random',
  family: 'kv',
  summary: 'each head keeps random entries: a baseline',
  paper: null,
  options,
  examples: ['random', { policy: 'random', max_entries: 24, sink: 2, recent: 4, interval: 8, seed: 7 }],
  needs: [],
  create: ({ seed, ...fields }) =>
    evicting(fields, {
      // One number an entry for all evictions: what is left after any of them is a uniform sample of all there were.
      select({ layer, head, positions, numSinks, numRecent }, count) {
        const scores = Array.from(positions, (position) => uniform(seed, layer, head, position));
        return topEntries(scores, count, { numSinks, numRecent });
      },
    }),
});
