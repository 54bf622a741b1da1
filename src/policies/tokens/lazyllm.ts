/** LazyLLM (arXiv 2407.14057): tokens that the last one hardly attends to do not enter deeper layers. */
import { z } from 'zod';
import { AppError } from '../../errors.ts';
import { definePolicy } from '../contract.ts';
import { keptTokens, topIndices } from '../selection.ts';

/** Share of the layers after which the paper's illustrated schedule cuts, each time to 70 % of what is left. */
const DEFAULT_STAGES = [0.3, 0.6, 0.9];
const DEFAULT_KEEP = 0.7;

const options = z.strictObject({
  stages: z
    .array(
      z.strictObject({
        layer: z.int().min(0).describe('tokens not kept do not enter the layer after this one'),
        keep: z.number().gt(0).max(1).describe('share of the tokens alive at that layer'),
      }),
    )
    .min(1)
    .optional()
    .describe('default: 0.7 after 30, 60 and 90 % of the layers'),
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
    { policy: 'lazyllm', stages: [{ layer: 1, keep: 0.5 }], prefill_only: true },
    {
      policy: 'lazyllm',
      stages: [
        { layer: 0, keep: 0.9 },
        { layer: 1, keep: 0.6 },
      ],
    },
  ],
  needs: ['last-query-attention'],
  create({ stages, prefill_only: prefillOnly }, { layers }) {
    const keeps = new Map<number, number>();
    const chosen =
      stages ??
      DEFAULT_STAGES.map((share) => ({
        layer: Math.round(share * layers.length) - 1,
        keep: DEFAULT_KEEP,
      })).filter(({ layer }) => layer >= 0 && layer < layers.length - 1);
    chosen.forEach(({ layer, keep }, i) => {
      const previous = chosen[i - 1]?.layer ?? -1;
      if (layer <= previous || layer >= layers.length - 1) {
        const message = `stages[${i}].layer: expected a layer above ${previous} and below ${layers.length - 1}, got ${layer}`;
        throw new AppError('invalid_request', message, { param: `stages[${i}].layer` });
      }
      keeps.set(layer, keep);
    });
    return {
      rest: 'leave',
      observes: 'last',
      revives: !prefillOnly,
      budget: (layer, numAlive) => {
        const keep = keeps.get(layer);
        return keep === undefined ? null : Math.max(1, keptTokens(keep, numAlive));
      },
      select({ importance }, budget) {
        // The last token is the query: it stays whatever it thinks of itself.
        const scores = Float32Array.from(importance);
        scores[scores.length - 1] = Infinity;
        return topIndices(scores, budget);
      },
    };
  },
});
