/** Key norm (arXiv 2406.11430): keys with a small norm tend to get much attention. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { topEntries } from '../selection.ts';

const options = z.strictObject(evictionOptions()).superRefine(checkBudget);

export const keyNorm = definePolicy({
  name: 'key-norm',
  family: 'kv',
  summary: 'each head keeps the entries whose keys have the smallest norms',
  paper: '2406.11430',
  options,
  examples: ['key-norm', { policy: 'key-norm', max_entries: 24, sink: 2, recent: 4, interval: 8 }],
  needs: ['key-norm'],
  create: (fields) =>
    evicting(fields, {
      select: (entries, count) =>
        topEntries(
          entries.keyNorms().map((norm) => -norm),
          count,
          entries,
        ),
    }),
});
