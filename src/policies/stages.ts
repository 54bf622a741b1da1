/** Stages: layers after which a share of the tokens goes on, as LazyLLM and its baseline have them. */
import { z } from 'zod';
import type { ModelShape, TokenPolicy } from './contract.ts';
import { checkIndex, indicesWhere, refuse } from './option-checks.ts';
import { keptTokens } from './selection.ts';

/** The LazyLLM paper's illustrated schedule. */
const DEFAULT_STAGES = [0.3, 0.6, 0.9].map((after) => ({ after, keep: 0.7 }));

export const stagesOption = z
  .array(
    z
      .strictObject({
        layer: z.int().min(0).optional().describe('tokens not kept do not enter the layer after this one'),
        after: z.number().gt(0).lt(1).optional().describe('instead of layer: a share of the layers'),
        keep: z.number().gt(0).max(1).describe('share of the tokens alive at that layer'),
      })
      .superRefine(({ layer, after }, context) => {
        if ((layer === undefined) === (after === undefined)) {
          const message = `expected layer or after, got ${layer === undefined ? 'neither' : 'both'}`;
          context.addIssue({ code: 'custom', path: ['layer'], message });
        }
      }),
  )
  .min(1)
  .optional()
  .describe('cuts, ascending by layer; default: 0.7 after 30, 60 and 90 % of the layers');

interface Stage {
  readonly layer?: number | undefined;
  readonly after?: number | undefined;
  readonly keep: number;
}

/**
 * The last of a share of the layers, or the nearest one below that can cut; undefined = nothing is left to cut. The
 * paper's figure rounds down, which in a model of six layers would cut after the very first.
 */
function layerAfter(share: number, numLayers: number, valid: readonly number[]): number | undefined {
  const target = Math.round(share * numLayers) - 1;
  if (target >= numLayers - 1) return undefined;
  return valid.findLast((candidate) => candidate <= target);
}

/**
 * Budgets of the stages, or of the default ones. Of stages given by share, those whose layer has no attention give way to
 * the nearest one below, those that fall on the same layer multiply, and one that ends at the last layer cuts nothing.
 * @throws AppError `invalid_request` for a layer that cannot cut or is not above the one before
 */
export function stageBudget(
  stages: z.infer<typeof stagesOption>,
  { layers }: ModelShape,
): TokenPolicy['budget'] {
  // A cut after the last layer would leave nothing out, one without attention has nothing to go by.
  const valid = indicesWhere(layers.slice(0, -1), ({ queryHeads }) => queryHeads > 0);
  const keeps = new Map<number, number>();
  let previous = -1;
  (stages ?? DEFAULT_STAGES).forEach((stage: Stage, i) => {
    if (stage.after !== undefined) {
      const layer = layerAfter(stage.after, layers.length, valid);
      if (layer === undefined) return;
      if (layer < previous)
        refuse(
          `expected a share that ends at layer ${previous} or above, got ${stage.after}`,
          `stages[${i}].after`,
        );
      keeps.set(layer, (keeps.get(layer) ?? 1) * stage.keep);
      previous = layer;
      return;
    }
    const layer = stage.layer ?? 0;
    checkIndex(layer, valid, 'a layer with attention before the last one', `stages[${i}].layer`);
    if (layer <= previous) refuse(`expected a layer above ${previous}, got ${layer}`, `stages[${i}].layer`);
    keeps.set(layer, stage.keep);
    previous = layer;
  });
  return (layer, numAlive) => {
    const keep = keeps.get(layer);
    return keep === undefined ? null : Math.max(1, keptTokens(keep, numAlive));
  };
}
