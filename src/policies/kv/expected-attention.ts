/** Expected attention (arXiv 2510.00636): what coming queries, distributed as those so far, would attend to. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { topEntries } from '../selection.ts';

const options = z
  .strictObject({
    ...evictionOptions(),
    future: z.int().min(1).default(512).describe('coming positions over which rotations are averaged'),
  })
  .superRefine(checkBudget);

export const expectedAttention = definePolicy({
  name: 'expected-attention',
  family: 'kv',
  summary: 'each head keeps what coming queries are expected to attend to, times what it would add',
  paper: '2510.00636',
  options,
  examples: [
    'expected-attention',
    { policy: 'expected-attention', max_entries: 24, sink: 2, recent: 4, future: 64, interval: 8 },
  ],
  needs: ['query-statistics', 'value-norm'],
  create: ({ future, ...fields }) =>
    evicting(fields, {
      needsQueries: true,
      select(entries, count) {
        const norms = entries.valueNorms();
        const expected = entries.expectedAttention(future, entries.numSinks);
        const scores = expected.map((probability, i) => probability * (norms[i] ?? 0));
        return topEntries(scores, count, entries);
      },
    }),
});
