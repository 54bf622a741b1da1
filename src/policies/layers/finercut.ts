/** FinerCut (arXiv 2405.18218): attention and MLP blocks that change the output least are left out, each for itself. */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';
import { checkLayers, indicesWhere } from '../option-checks.ts';

const list = z.array(z.int().min(0)).default([]);

const options = z
  .strictObject({
    attention: list.describe('layers whose attention is left out'),
    mlp: list.describe('layers whose MLP is left out'),
  })
  .refine(
    ({ attention, mlp }) => attention.length + mlp.length > 0,
    'expected at least one layer in attention or mlp',
  );

export const finercut = definePolicy({
  name: 'finercut',
  family: 'layers',
  summary: 'attention and MLP blocks of the given layers do not run',
  paper: '2405.18218',
  options,
  examples: [
    { policy: 'finercut', mlp: [1] },
    { policy: 'finercut', attention: [1], mlp: [0] },
  ],
  needs: [],
  create({ attention, mlp }, { layers }) {
    const withAttention = indicesWhere(layers, ({ queryHeads }) => queryHeads > 0);
    const withMlp = indicesWhere(layers, ({ hasMlp }) => hasMlp);
    checkLayers(attention, withAttention, 'a layer with attention', 'attention');
    checkLayers(mlp, withMlp, 'a layer with an MLP', 'mlp');
    return {
      attention: layers.map((_, layer) => !attention.includes(layer)),
      mlp: layers.map((_, layer) => !mlp.includes(layer)),
      headScale: layers.map(() => null),
    };
  },
});
