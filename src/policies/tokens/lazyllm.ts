/** LazyLLM (arXiv 2407.14057): tokens that the last one hardly attends to do not enter deeper layers. */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';
import { topTokens } from '../selection.ts';
import { stageBudget, stagesOption } from '../stages.ts';

const options = z.strictObject({
  stages: stagesOption,
  prefill_only: z.boolean().default(false).describe('never compute a pruned token again during decoding'),
});

export const lazyllm = definePolicy({
  name: 'lazyllm',
  family: 'tokens',
  summary:
    'deeper layers compute only the prompt tokens that the last token attends to; pruned ones can come back',
  paper: '2407.14057',
  options,
  examples: [
    'lazyllm',
    { policy: 'lazyllm', stages: [{ layer: 0, keep: 0.5 }], prefill_only: true },
    { policy: 'lazyllm', stages: [{ layer: 0, keep: 0.9 }] },
  ],
  needs: ['last-query-attention'],
  create: ({ stages, prefill_only: prefillOnly }, model) => ({
    rest: 'leave',
    observes: 'last',
    revives: !prefillOnly,
    budget: stageBudget(stages, model),
    select: ({ importance }, budget) => topTokens(importance, budget),
  }),
});
