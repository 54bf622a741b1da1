/** Drives a model without the engine: prefill passes and decode steps on caches of its own. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Precision } from '../../src/graph/linear.ts';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { SequenceCache } from '../../src/kv/sequence-cache.ts';
import { decodeStep } from '../../src/runtime/decode.ts';
import { Model } from '../../src/runtime/model.ts';
import { PrefillPass } from '../../src/runtime/prefill.ts';

/** Small enough that prompts of 300 tokens cross the borders of tiles. */
export const TILE_ROWS = 128;

const fixtures = join(import.meta.dirname, '../fixtures');

/** What the reference computed for one prompt. */
export interface ReferenceCase {
  readonly input_ids: readonly number[];
  /** [4, vocabSize], of the last four positions of the prompt. */
  readonly last4_logits: readonly (readonly number[])[];
  readonly greedy_16?: readonly number[];
  readonly greedy_24?: readonly number[];
  readonly prompt?: string;
  readonly greedy_text?: string;
}

export interface Checkpoint {
  readonly name: string;
  readonly dir: string;
  readonly cases: readonly ReferenceCase[];
}

/** Checkpoints with reference values: `arch` has random weights, `models` can tell stories. */
export function checkpoints(kind: 'arch' | 'models'): Checkpoint[] {
  return readdirSync(join(fixtures, kind), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => {
      const dir = join(fixtures, kind, name);
      const { cases } = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as {
        cases: ReferenceCase[];
      };
      return { name, dir, cases };
    });
}

export const RECALL_DIR = join(fixtures, '../../models/coppice-recall');
export const NOVEL = join(fixtures, 'texts/hound-of-the-baskervilles.txt');

export function greedyOf(reference: ReferenceCase): readonly number[] {
  return reference.greedy_16 ?? reference.greedy_24 ?? [];
}

export function load(modelDir: string, precision: Precision, cacheDir: string, threads = 1): Promise<Model> {
  return Model.load({ modelDir, precision, cacheDir, threads });
}

/** An empty cache with room for `numEntries`. */
export function emptyCache(model: Model, numEntries = 1024): SequenceCache {
  const cache = new SequenceCache(new BytePool(2 ** 30), model.kvShape, numEntries);
  cache.reserve(numEntries);
  return cache;
}

/** Prefills tokens behind what the cache holds. @returns logits [vocabSize] of every row, or of the last one */
export async function prefill(
  model: Model,
  cache: SequenceCache,
  tokenIds: readonly number[],
  options: { start?: number; logits?: 'all' | 'last' } = {},
): Promise<Float32Array[]> {
  const logits: Float32Array[] = [];
  const request = {
    tokenIds: Int32Array.from(tokenIds),
    start: options.start ?? 0,
    cache,
    logits: options.logits ?? 'all',
    onLogits: (_row: number, values: Float32Array) => logits.push(values.slice()),
  };
  const pass = new PrefillPass(model, [request], TILE_ROWS);
  while (await pass.step());
  return logits;
}

/** Logits of all rows of a prompt, on a cache that is freed again. */
export async function scorePrompt(model: Model, tokenIds: readonly number[]): Promise<Float32Array[]> {
  const cache = emptyCache(model, tokenIds.length);
  const logits = await prefill(model, cache, tokenIds);
  cache.free();
  return logits;
}

/** One decode step of one sequence. */
export async function decodeOne(
  model: Model,
  cache: SequenceCache,
  tokenId: number,
  position: number,
): Promise<Float32Array> {
  const [logits = new Float32Array(0)] = await decodeStep(model, [
    { tokenId, position, cache, pruning: null },
  ]);
  return logits;
}

/** The `count` likeliest tokens one after another, whatever they are. */
export async function greedy(model: Model, promptIds: readonly number[], count: number): Promise<number[]> {
  const cache = emptyCache(model, promptIds.length + count);
  let [logits = new Float32Array(0)] = await prefill(model, cache, promptIds, { logits: 'last' });
  const ids = [argmax(logits)];
  while (ids.length < count) {
    logits = await decodeOne(model, cache, ids.at(-1)!, promptIds.length + ids.length - 1);
    ids.push(argmax(logits));
  }
  cache.free();
  return ids;
}

export function argmax(values: Float32Array): number {
  return values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
}

/** Largest absolute difference; infinite when the lengths differ or a value is not a number. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let max = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= max)) max = Number.isNaN(difference) ? Infinity : difference;
  }
  return max;
}

/** Natural logarithm of the probability of one token. */
export function logProbability(logits: Float32Array, tokenId: number): number {
  const top = logits[argmax(logits)]!;
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - top), 0);
  return logits[tokenId]! - top - Math.log(sum);
}
