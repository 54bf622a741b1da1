/**
 * A DuoAttention pattern from KVzip's scores (arXiv 2505.23416): the most that a KV head attends to any one entry while
 * the model repeats a text. Unlike the authors' scores those of sinks and of the text's end do not count: streaming
 * heads hold them, too, and a head that only looks at its neighbours would get 1 from the first repeated token.
 */
import { invariant } from '../../errors.ts';
import { BytePool } from '../../kv/byte-pool.ts';
import { PrunedCache } from '../../kv/pruned-cache.ts';
import { bytesFor, SequenceCache } from '../../kv/sequence-cache.ts';
import type { Model } from '../model.ts';
import { PrefillPass } from '../prefill.ts';
import { repeatPrompt } from '../pruning/repetition.ts';
import { averageGates } from './head-gates.ts';

/** What a streaming head keeps: so many first tokens, and so many last ones. */
export interface StreamingSizes {
  readonly sink: number;
  readonly recent: number;
}

const UNPRUNED = { policies: { tokens: null, kv: null, layers: null }, headScale: () => null };

async function read(model: Model, tokenIds: Int32Array, cache: SequenceCache): Promise<void> {
  const onLogits = (): void => undefined;
  const pass = new PrefillPass(model, [{ tokenIds, start: 0, cache, logits: 'none', onLogits }]);
  while (await pass.step());
}

/** For each KV head [tokens]: the most that any repeated row gives to an entry. */
async function passageScores(model: Model, tokenIds: Int32Array): Promise<Float32Array[][]> {
  const { length } = tokenIds;
  const pool = new BytePool(bytesFor(model.kvShape, length));
  const cache = new SequenceCache(pool, model.kvShape, length);
  try {
    invariant(cache.reserve(length), 'the pool is as large as its only cache');
    await read(model, tokenIds, cache);
    const pruned = PrunedCache.over(cache, true);
    const repetition = { tokenIds, start: 0, isDropped: () => false };
    for (const job of repeatPrompt(model, { ...UNPRUNED, pruned }, repetition)) await job();
    return pruned.all.map((heads) => heads.map(({ scores }) => scores));
  } finally {
    cache.free();
  }
}

/**
 * Gates [layers][KV heads] in [0, 1], averaged over passages of token ids; none for a layer without attention.
 * Passages are longer than `sink + recent`, and positions run to twice their length.
 */
export function computeRepeatGates(
  model: Model,
  passages: readonly Int32Array[],
  { sink, recent }: StreamingSizes,
  onPassage?: (done: number) => void,
): Promise<number[][]> {
  const gatesOf = async (passage: Int32Array): Promise<number[][]> => {
    const end = passage.length - recent;
    invariant(end > sink, `a passage of ${passage.length} tokens has some between sinks and window`);
    const scores = await passageScores(model, passage);
    return scores.map((heads) =>
      heads.map((head) => head.subarray(sink, end).reduce((a, b) => Math.max(a, b), 0)),
    );
  };
  return averageGates(passages, gatesOf, onPassage);
}
