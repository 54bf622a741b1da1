/** A sequence's logits do not depend on the sequences that it shares a decode step with. */
import { describe, expect, it } from 'vitest';
import type { Precision } from '../../src/graph/linear.ts';
import type { SequenceCache } from '../../src/kv/sequence-cache.ts';
import { decodeStep } from '../../src/runtime/decode.ts';
import type { DecodeRow } from '../../src/runtime/decode.ts';
import type { Model } from '../../src/runtime/model.ts';
import { checkpoints, emptyCache, maxDifference, prefill, RECALL_DIR } from './drive.ts';
import { modelLoader } from './fixture.ts';

const model = modelLoader();
const names = [
  'llama-gqa-rope3',
  'llama-mqa-v5config',
  'llama-pruned-shapes',
  'mistral-swa',
  'qwen2',
  'qwen3',
  'stories260K',
];
const models: [name: string, dir: string, threads: number][] = [
  ...[...checkpoints('arch'), ...checkpoints('models')]
    .filter(({ name }) => names.includes(name))
    .map(({ name, dir }): [string, string, number] => [name, dir, 1]),
  ['coppice-recall', RECALL_DIR, 2],
];

const LENGTHS = [3, 40, 1, 130, 17, 64, 90, 25, 7, 55, 128, 33, 2, 12, 71, 20];
/** Sequences in one step, as far as the model has slots for them. */
const BATCHES = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16];
const STEPS = 2;

/** Token ids that look random, within any vocabulary of the fixtures. */
function tokens(seed: number, length: number): number[] {
  return Array.from({ length }, (_, i) => (seed * 31 + i * 17 + ((i * i) % 23)) % 100);
}

async function prefilled(loaded: Model): Promise<SequenceCache[]> {
  const caches: SequenceCache[] = [];
  for (const [i, length] of LENGTHS.entries()) {
    const cache = emptyCache(loaded, 256);
    await prefill(loaded, cache, tokens(i, length), { logits: 'last' });
    caches.push(cache);
  }
  return caches;
}

/** Logits of several decode steps of some sequences, from forks of their caches: [step][sequence]. */
async function decode(
  loaded: Model,
  caches: SequenceCache[],
  sequences: number[],
): Promise<Float32Array[][]> {
  const forks = sequences.map((i) => caches[i]!.fork()!);
  const steps: Float32Array[][] = [];
  for (let step = 0; step < STEPS; step++) {
    const rows = sequences.map((i, at): DecodeRow => {
      forks[at]!.reserve(LENGTHS[i]! + step + 1);
      return {
        tokenId: tokens(i, 200).at(-1 - step)!,
        position: LENGTHS[i]! + step,
        cache: forks[at]!,
        pruning: null,
      };
    });
    steps.push((await decodeStep(loaded, rows)).map((logits) => logits.slice()));
  }
  for (const fork of forks) fork.free();
  return steps;
}

/** [batch size, largest difference to the logits of each sequence alone] */
async function differences(
  modelDir: string,
  precision: Precision,
  threads: number,
): Promise<[number, number][]> {
  const loaded = await model(modelDir, precision, threads);
  const caches = await prefilled(loaded);
  const alone: Float32Array[][][] = [];
  for (const i of LENGTHS.keys()) alone.push(await decode(loaded, caches, [i]));
  // Otherwise the comparison below would prove nothing.
  for (const [i, [logits]] of alone.entries()) {
    for (const [other] of alone.slice(0, i))
      expect(maxDifference(logits![0]!, other![0]!)).toBeGreaterThan(1e-4);
  }
  const result: [number, number][] = [];
  for (const size of BATCHES) {
    if (size > loaded.session.decodeSizes.at(-1)!) continue;
    // Rotated, so that a sequence comes to lie in every slot.
    const sequences = Array.from({ length: size }, (_, i) => (i + size) % LENGTHS.length);
    const together = await decode(loaded, caches, sequences);
    const all = together.flatMap((logits, step) =>
      logits.map((row, at) => maxDifference(row, alone[sequences[at]!]![step]![0]!)),
    );
    result.push([size, Math.max(...all)]);
  }
  for (const cache of caches) cache.free();
  return result;
}

describe.each(models)('%s', (_name, dir, threads) => {
  // fp32 too: its weights are packed, and the kernels for packed weights add up one row like any other.
  it.each(['int8', 'fp32'] as const)(
    'decodes to the same bits in batches of any size in %s',
    async (precision) => {
      const result = await differences(dir, precision, threads);
      expect(result.length).toBeGreaterThanOrEqual(8);
      expect(result.filter(([, difference]) => difference !== 0)).toEqual([]);
    },
  );
});
