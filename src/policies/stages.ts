/** Stages: layers after which a share of the tokens goes on, as LazyLLM and its baseline have them. */
import { z } from 'zod';
import type { ModelShape, TokenPolicy } from './contract.ts';
import { checkIndex, indicesWhere, refuse } from './option-checks.ts';
import { keptTokens } from './selection.ts';

/** Share of the layers after which the LazyLLM paper's illustrated schedule cuts, each time to 70 % of what is left. */
const DEFAULT_STAGES = [0.3, 0.6, 0.9];
const DEFAULT_KEEP = 0.7;

export const stagesOption = z
  .array(
    z.strictObject({
      layer: z.int().min(0).describe('tokens not kept do not enter the layer after this one'),
      keep: z.number().gt(0).max(1).describe('share of the tokens alive at that layer'),
    }),
  )
  .min(1)
  .optional()
  .describe('cuts, ascending by layer; default: 0.7 after 30, 60 and 90 % of the layers');

/**
 * Budgets of the stages, or of the default ones: there a layer without attention gives way to the nearest one with it
 * below, and two that fall on the same layer are one.
 * @throws AppError `invalid_request` for a layer that cannot cut or is not above the one before
 */
export function stageBudget(
  stages: z.infer<typeof stagesOption>,
  { layers }: ModelShape,
): TokenPolicy['budget'] {
  // A cut after the last layer would leave nothing out, one without attention has nothing to go by.
  const valid = indicesWhere(layers.slice(0, -1), ({ queryHeads }) => queryHeads > 0);
  const keeps = new Map<number, number>();
  if (stages === undefined) {
    for (const share of DEFAULT_STAGES) {
      const target = Math.round(share * layers.length) - 1;
      const layer = valid.findLast((candidate) => candidate <= target);
      if (layer !== undefined && target < layers.length - 1) keeps.set(layer, DEFAULT_KEEP);
    }
  } else {
    stages.forEach(({ layer, keep }, i) => {
      const previous = stages[i - 1]?.layer ?? -1;
      checkIndex(layer, valid, 'a layer with attention before the last one', `stages[${i}].layer`);
      if (layer <= previous) refuse(`expected a layer above ${previous}, got ${layer}`, `stages[${i}].layer`);
      keeps.set(layer, keep);
    });
  }
  return (layer, numAlive) => {
    const keep = keeps.get(layer);
    return keep === undefined ? null : Math.max(1, keptTokens(keep, numAlive));
  };
}
