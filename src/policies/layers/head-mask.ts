/** Head mask: the outputs of single query heads are scaled, as studies of what heads do need it (arXiv 1905.10650). */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';
import { checkIndex, indicesWhere, refuse } from '../option-checks.ts';

const index = z.int().min(0);

const options = z.strictObject({
  heads: z
    .array(z.tuple([index, index]))
    .min(1)
    .describe('[layer, query head] of each head to scale'),
  factor: z.number().min(0).default(0).describe('what their outputs are multiplied by; 0 = silent'),
});

export const headMask = definePolicy({
  name: 'head-mask',
  family: 'layers',
  summary: 'the given query heads are silent, or scaled by a factor',
  paper: '1905.10650',
  options,
  examples: [
    { policy: 'head-mask', heads: [[1, 0]] },
    {
      policy: 'head-mask',
      heads: [
        [0, 0],
        [1, 0],
      ],
      factor: 0.5,
    },
  ],
  needs: [],
  create({ heads, factor }, { layers }) {
    const withAttention = indicesWhere(layers, ({ queryHeads }) => queryHeads > 0);
    const scales = new Map<number, number[]>();
    heads.forEach(([layer, head], i) => {
      checkIndex(layer, withAttention, 'a layer with attention', `heads[${i}][0]`);
      const numHeads = layers[layer]?.queryHeads ?? 0;
      checkIndex(head, [...Array(numHeads).keys()], `a query head of layer ${layer}`, `heads[${i}][1]`);
      if (heads.findIndex((other) => other[0] === layer && other[1] === head) < i)
        refuse(`expected each query head once, got [${layer}, ${head}] again`, `heads[${i}]`);
      const row = scales.get(layer) ?? Array<number>(numHeads).fill(1);
      row[head] = factor;
      scales.set(layer, row);
    });
    return {
      attention: layers.map(() => true),
      mlp: layers.map(() => true),
      headScale: layers.map((_, layer) => scales.get(layer) ?? null),
    };
  },
});
