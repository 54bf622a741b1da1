/** Random tokens leave: the baseline that every policy of the family must beat. */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';
import { uniform } from '../random.ts';
import { topTokens } from '../selection.ts';
import { stageBudget, stagesOption } from '../stages.ts';

const options = z.strictObject({
  stages: stagesOption,
  seed: z
    .int()
    .min(0)
    .max(2 ** 32 - 1)
    .default(0)
    .describe('equal seeds choose equal positions'),
});

export const randomTokens = definePolicy({
  name: 'random',
  family: 'tokens',
  summary: 'deeper layers compute random prompt tokens and the last one: a baseline',
  paper: null,
  options,
  examples: ['random', { policy: 'random', stages: [{ layer: 0, keep: 0.5 }], seed: 7 }],
  needs: [],
  create: ({ stages, seed }, model) => ({
    rest: 'leave',
    observes: 'none',
    revives: false,
    budget: stageBudget(stages, model),
    // One number a position for all stages: what is left after any of them is a uniform sample of the prompt.
    select: ({ positions }, budget) =>
      topTokens(
        Array.from(positions, (position) => uniform(seed, position)),
        budget,
      ),
  }),
});
