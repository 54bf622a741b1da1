/** Attention drop (arXiv 2406.15786, "Not All Attention is Needed"): attention blocks that change little are left out. */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';
import { checkLayers, indicesWhere } from '../option-checks.ts';

const options = z.strictObject({
  drop: z.array(z.int().min(0)).min(1).describe('layers whose attention is left out'),
});

export const attentionDrop = definePolicy({
  name: 'attention-drop',
  family: 'layers',
  summary: 'attention of the given layers does not run, and holds no cache',
  paper: '2406.15786',
  options,
  examples: [{ policy: 'attention-drop', drop: [1] }],
  needs: [],
  create({ drop }, { layers }) {
    const valid = indicesWhere(layers, ({ queryHeads }) => queryHeads > 0);
    checkLayers(drop, valid, 'a layer with attention', 'drop');
    return {
      attention: layers.map((_, layer) => !drop.includes(layer)),
      mlp: layers.map(() => true),
      headScale: layers.map(() => null),
    };
  },
});
