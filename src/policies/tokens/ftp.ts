/** FTP (arXiv 2412.11494) with a static router: tokens that the last one hardly attends to pass single layers by. */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';
import { checkLayers, indicesWhere } from '../option-checks.ts';
import { keptTokens, topIndices } from '../selection.ts';

const options = z.strictObject({
  keep: z
    .number()
    .gt(0)
    .max(1)
    .default(0.7)
    .describe('share of the tokens that enter a routed layer, the first and the last one among them'),
  layers: z
    .array(z.int().min(0))
    .min(1)
    .optional()
    .describe('layers that tokens may pass by; default: all but the first'),
});

export const ftp = definePolicy({
  name: 'ftp',
  family: 'tokens',
  summary: 'at single layers, tokens pass by that the last token hardly attends to',
  paper: '2412.11494',
  options,
  examples: ['ftp', { policy: 'ftp', keep: 0.5, layers: [1] }],
  needs: ['last-query-attention'],
  create({ keep, layers }, model) {
    // Before layer 0 nobody has attended to anything.
    const valid = indicesWhere(model.layers, () => true).slice(1);
    if (layers !== undefined) checkLayers(layers, valid, 'a layer above the first', 'layers');
    const routed = new Set(layers ?? valid);
    return {
      rest: 'pass',
      observes: 'last',
      revives: false,
      budget: (layer, numAlive) =>
        routed.has(layer + 1) ? Math.min(numAlive, Math.max(2, keptTokens(keep, numAlive))) : null,
      // The paper trains a router on position, attention, its rank and the layer's sparsity; the static one ranks by
      // attention and keeps both ends. Where there is room for one of them, the last token is the query.
      select({ importance }, budget) {
        const scores = Float64Array.from(importance);
        scores[0] = Number.MAX_VALUE;
        scores[scores.length - 1] = Infinity;
        return topIndices(scores, budget);
      },
    };
  },
});
