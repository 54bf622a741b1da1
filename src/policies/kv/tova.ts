/** TOVA (arXiv 2401.06104): what the last row attends to, averaged over all query heads of the layer. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { topEntries } from '../selection.ts';

const options = z.strictObject(evictionOptions({ sink: 0, recent: 1 })).superRefine(checkBudget);

export const tova = definePolicy({
  name: 'tova',
  family: 'kv',
  summary: 'all heads of a layer keep what the last token attends to',
  paper: '2401.06104',
  options,
  examples: ['tova', { policy: 'tova', max_entries: 24, sink: 2, recent: 4, interval: 8 }],
  needs: ['last-query-attention'],
  create: (fields) =>
    evicting(fields, {
      observes: 'last',
      select(entries, count) {
        // The paper does not protect the last entry, kvpress does; its own query's attention says little about it.
        const numRecent = Math.max(1, entries.numRecent);
        return topEntries(entries.layerAttention(), count, { numSinks: entries.numSinks, numRecent });
      },
    }),
});
