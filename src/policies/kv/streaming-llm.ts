/** StreamingLLM (arXiv 2309.17453): the first tokens, which soak up attention, and the most recent ones. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy } from '../contract.ts';
import { topEntries } from '../selection.ts';

const options = z.strictObject(evictionOptions()).omit({ recent: true }).superRefine(checkBudget);

export const streamingLlm = definePolicy({
  name: 'streaming-llm',
  family: 'kv',
  summary: 'each head keeps the first tokens and the most recent ones',
  paper: '2309.17453',
  options,
  // The paper gives entries new positions in the cache; here they keep their own, as everywhere.
  examples: ['streaming-llm', { policy: 'streaming-llm', max_entries: 24, sink: 2, interval: 8 }],
  needs: [],
  create: (fields) =>
    evicting(fields, {
      select: (entries, count) => topEntries(entries.positions, count, entries),
    }),
});
