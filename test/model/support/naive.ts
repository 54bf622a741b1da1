/** The plain way to run a model: one token after the other, one row a run. The reference for everything faster. */
import { BytePool } from '../../../src/kv/byte-pool.ts';
import { SequenceCache } from '../../../src/kv/sequence-cache.ts';
import { decodeStep } from '../../../src/runtime/decode.ts';
import type { Model } from '../../../src/runtime/model.ts';

export interface NaiveRun {
  /** For each token of the text, the logits [vocabSize] of what comes after it. */
  readonly logits: readonly Float32Array[];
  /** Greedy continuation of the first `length` tokens of the text. */
  continue(length: number, numTokens: number): Promise<number[]>;
}

export async function runNaively(model: Model, ids: readonly number[]): Promise<NaiveRun> {
  const whole = new SequenceCache(new BytePool(2 ** 30), model.kvShape, model.info.contextLength);
  const step = async (cache: SequenceCache, tokenId: number, position: number): Promise<Float32Array> => {
    cache.reserve(position + 1);
    const [logits] = await decodeStep(model, [{ tokenId, position, cache, pruning: null }]);
    return logits!.slice();
  };
  const logits: Float32Array[] = [];
  for (const [position, tokenId] of ids.entries()) logits.push(await step(whole, tokenId, position));
  return {
    logits,
    async continue(length, numTokens) {
      const cache = whole.fork(length)!;
      const tokens = [argmax(logits[length - 1]!)];
      while (tokens.length < numTokens)
        tokens.push(argmax(await step(cache, tokens.at(-1)!, length + tokens.length - 1)));
      cache.free();
      return tokens;
    },
  };
}

function argmax(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  return best;
}

/** log softmax of `logits` at one id, in float64. */
export function logprobOf(logits: ArrayLike<number>, id: number): number {
  const all = Array.from(logits);
  const max = Math.max(...all);
  return all[id]! - max - Math.log(all.reduce((sum, logit) => sum + Math.exp(logit - max), 0));
}
