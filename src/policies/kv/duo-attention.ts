/** DuoAttention (arXiv 2410.10819): only retrieval heads keep the whole context, streaming heads sinks and a window. */
import { z } from 'zod';
import { definePolicy } from '../contract.ts';

const options = z.strictObject({
  sparsity: z.number().min(0).max(1).default(0.5).describe('share of the KV heads that stream'),
  sink: z.int().min(0).default(16).describe('first tokens that a streaming head keeps'),
  recent: z.int().min(1).default(64).describe('last tokens that a streaming head keeps'),
  prefill: z
    .enum(['streaming', 'exact'])
    .default('streaming')
    .describe('whether streaming heads stream during the prompt, too, or are cut after it'),
});

export const duoAttention = definePolicy({
  name: 'duo-attention',
  family: 'kv',
  summary: 'retrieval heads keep everything, streaming heads only sinks and the recent window',
  paper: '2410.10819',
  options,
  examples: [
    'duo-attention',
    { policy: 'duo-attention', sparsity: 0.5, sink: 16, recent: 64 },
    { policy: 'duo-attention', sparsity: 0.75, sink: 4, recent: 32, prefill: 'exact' },
  ],
  needs: ['head-pattern'],
  unsupported: ({ gates }) =>
    gates === null ? 'the model has no DuoAttention pattern; `coppice heads` computes one' : null,
  create: ({ sparsity, sink, recent, prefill }, { gates }) => ({
    kind: 'split',
    streaming: streamingHeads(gates ?? [], sparsity),
    sink,
    recent,
    prefill,
  }),
});

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The so many lowest gates of all layers together stream; of equal gates those of earlier layers and heads (as kvpress). */
export function streamingHeads(gates: readonly (readonly number[])[], sparsity: number): boolean[][] {
  const flat = gates.flatMap((row, layer) =>
    row.map((gate, head) => ({ layer, head, gate: Math.min(1, Math.max(0, gate)) })),
  );
  const chosen = flat.sort((a, b) => a.gate - b.gate).slice(0, roundHalfToEven(flat.length * sparsity));
  const streaming = gates.map((row) => row.map(() => false));
  for (const { layer, head } of chosen) {
    const row = streaming[layer];
    if (row !== undefined) row[head] = true;
  }
  return streaming;
}
