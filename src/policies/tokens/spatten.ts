/** SpAtten (arXiv 2012.09852): layer by layer, the tokens and query heads that mattered least so far leave for good. */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';
import { refuse } from '../option-checks.ts';
import { keptEntries, topIndices, topTokens } from '../selection.ts';

/** Shares of the layers, from the first on, in which all tokens and all query heads take part. */
const LAYERS_BEFORE_TOKENS = 0.15;
const LAYERS_BEFORE_HEADS = 0.3;

const options = z.strictObject({
  token_keep: z
    .number()
    .gt(0)
    .max(1)
    .default(0.7)
    .describe('share of the prompt that layers after the first 15 % compute, on average over them'),
  head_keep: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .describe('share of the query heads that layers after the first 30 % use, on average over them'),
});

/**
 * What each layer keeps of all there was: everything at first, then a share that falls linearly, so that
 * start + end = 2 * average. The paper leaves the start open: here 1.5 * average, or 1 if that is more.
 */
function cascade(average: number, numLayers: number, shareBefore: number): number[] {
  const first = Math.ceil(shareBefore * numLayers - 1e-9);
  const last = numLayers - 1;
  const start = Math.min(1, 1.5 * average);
  const end = 2 * average - start;
  return Array.from({ length: numLayers }, (_, layer) => {
    if (layer < first) return 1;
    return first === last ? average : start + ((layer - first) / (last - first)) * (end - start);
  });
}

export const spatten = definePolicy({
  name: 'spatten',
  family: 'tokens',
  summary: 'layer by layer, tokens (and query heads) leave that mattered least to all rows so far',
  paper: '2012.09852',
  options,
  examples: ['spatten', { policy: 'spatten', token_keep: 0.5, head_keep: 0.75 }],
  needs: ['accumulated-attention', 'head-magnitude'],
  create({ token_keep: tokenKeep, head_keep: headKeep }, { layers }) {
    const tokenShares = cascade(tokenKeep, layers.length, LAYERS_BEFORE_TOKENS);
    const headShares = cascade(headKeep, layers.length, LAYERS_BEFORE_HEADS);
    if (headKeep < 1 && new Set(layers.map(({ queryHeads }) => queryHeads)).size > 1)
      refuse('expected 1: the layers of this model differ in their query heads', 'head_keep');
    const countAt = (shares: readonly number[], layer: number, numSeen: number): number | null => {
      const share = shares[layer] ?? 1;
      return share === 1 ? null : keptEntries({ keep: share }, numSeen);
    };
    return {
      rest: 'leave',
      observes: 'all',
      revives: false,
      // Shares are of the prompt, not of the alive tokens: those would compound, and mean less the more layers there are.
      budget(layer, numAlive, numSeen) {
        const count = countAt(tokenShares, layer + 1, numSeen);
        return count === null ? null : Math.min(count, numAlive);
      },
      select: ({ importance }, budget) => topTokens(importance, budget),
      ...(headKeep < 1 && {
        heads: {
          budget: (layer: number, numHeads: number) => countAt(headShares, layer + 1, numHeads),
          // Silent heads stand still while the others grow: none comes back.
          select: (magnitudes: Float32Array, budget: number) => topIndices(magnitudes, budget),
        },
      }),
    };
  },
});
