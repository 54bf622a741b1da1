/** Read-time selection: a decode row reads only the blocks of a head's entries that promise most for its query. */
import type { AttentionShape } from '../../graph/architecture.ts';
import type { HeadView } from '../../graph/session.ts';
import type { HeadCache } from '../../kv/head-cache.ts';
import { keptEntries, type ReadingPolicy, topIndices } from '../../policies/index.ts';

/** Where gathered entries lie during a run: one pair for each decode row and head, reused by all layers. */
const scratches = new Map<string, { keys: Float32Array; values: Float32Array }>();

function scratchOf(key: string, length: number): { keys: Float32Array; values: Float32Array } {
  let scratch = scratches.get(key);
  if (scratch === undefined || scratch.keys.length < length) {
    scratch = { keys: new Float32Array(length), values: new Float32Array(length) };
    scratches.set(key, scratch);
  }
  return scratch;
}

export interface Reading {
  readonly layer: number;
  readonly head: number;
  /** First slot that the model's own window lets the row see. */
  readonly from: number;
  readonly entries: HeadCache;
  readonly attention: AttentionShape;
  /** The row's query, key and value, [(queryHeads + 2 kvHeads) * headDim]. */
  readonly projected: Float32Array;
  /** Rows of one run use different ones. */
  readonly scratch: number;
}

export class BlockReader {
  readonly #policy: ReadingPolicy;
  /** By layer and head: what stands for each full block, in order. */
  readonly #summaries = new Map<string, Float32Array[]>();

  constructor(policy: ReadingPolicy) {
    this.#policy = policy;
  }

  clone(): BlockReader {
    const copy = new BlockReader(this.#policy);
    for (const [key, blocks] of this.#summaries) copy.#summaries.set(key, [...blocks]);
    return copy;
  }

  /** Entries are only ever appended under these policies, so that a block's summary stays true. */
  view(reading: Reading): HeadView {
    const { layer, from, entries } = reading;
    const { blockSize, budget, denseLayers, firstBlocks } = this.#policy;
    const allowed = keptEntries(budget, entries.length);
    const numBlocks = Math.floor(entries.length / blockSize);
    const tail = entries.length - numBlocks * blockSize;
    // The row itself must be among what it reads: where no tail is left over, it ends the last full block.
    const lastBlocks = Math.max(this.#policy.lastBlocks, tail === 0 ? 1 : 0);
    const wanted = Math.max(firstBlocks + lastBlocks, Math.floor((allowed - tail) / blockSize));
    // Reading everything in place is cheaper than gathering nearly everything.
    if (layer < denseLayers || wanted >= numBlocks || from > 0)
      return { keys: entries.keys(from), values: entries.values(from) };
    const scores = this.#scores(reading, numBlocks).map((score, block) =>
      block < firstBlocks || block >= numBlocks - lastBlocks ? Infinity : score,
    );
    return gather(reading, topIndices(scores, wanted), blockSize, numBlocks);
  }

  /** The best of the query heads that share the KV head. */
  #scores({ layer, head, entries, attention, projected }: Reading, numBlocks: number): number[] {
    const { headDim } = entries;
    const { blockSize } = this.#policy;
    const key = `${layer}_${head}`;
    let summaries = this.#summaries.get(key);
    if (summaries === undefined) this.#summaries.set(key, (summaries = []));
    for (let block = summaries.length; block < numBlocks; block++)
      summaries.push(
        this.#policy.summarise(entries.keys(block * blockSize, (block + 1) * blockSize), headDim),
      );
    const group = attention.queryHeads / attention.kvHeads;
    const queries = Array.from({ length: group }, (_, i) =>
      projected.subarray((head * group + i) * headDim, (head * group + i + 1) * headDim),
    );
    return summaries.map((summary) =>
      Math.max(...queries.map((query) => this.#policy.score(query, summary))),
    );
  }
}

function gather(
  { head, entries, scratch }: Reading,
  blocks: Int32Array,
  blockSize: number,
  numBlocks: number,
): HeadView {
  const { headDim } = entries;
  const tailFrom = numBlocks * blockSize;
  const numEntries = blocks.length * blockSize + entries.length - tailFrom;
  const { keys, values } = scratchOf(`${scratch}_${head}`, numEntries * headDim);
  let at = 0;
  const copy = (from: number, to: number): void => {
    keys.set(entries.keys(from, to), at);
    values.set(entries.values(from, to), at);
    at += (to - from) * headDim;
  };
  for (const block of blocks) copy(block * blockSize, (block + 1) * blockSize);
  copy(tailFrom, entries.length);
  return { keys: keys.subarray(0, at), values: values.subarray(0, at) };
}
