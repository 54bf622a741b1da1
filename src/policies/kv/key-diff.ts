/** KeyDiff (arXiv 2504.15364): keys that point elsewhere than most. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { topEntries } from '../selection.ts';

const options = z.strictObject(evictionOptions()).superRefine(checkBudget);

export const keyDiff = definePolicy({
  name: 'key-diff',
  family: 'kv',
  summary: 'each head keeps the entries whose keys are least like the mean key',
  paper: '2504.15364',
  options,
  examples: ['key-diff', { policy: 'key-diff', max_entries: 24, sink: 2, recent: 4, interval: 8 }],
  needs: ['key-similarity'],
  create: (fields) =>
    evicting(fields, {
      select: (entries, count) =>
        topEntries(
          entries.keySimilarities().map((similarity) => -similarity),
          count,
          entries,
        ),
    }),
});
