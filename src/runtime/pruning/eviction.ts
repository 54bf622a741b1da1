/** Evicts cache entries: asks the policy which, works out how many, and holds it to the protections. */
import { invariant } from '../../errors.ts';
import { lowerBound, type PrunedHead } from '../../kv/pruned-cache.ts';
import { type EvictingPolicy, type HeadEntries, keptEntries } from '../../policies/index.ts';
import type { Model } from '../model.ts';
import { keySimilarities, norms } from './entry-signals.kernel.ts';
import type { SequencePruning } from './sequence-pruning.ts';

function entriesOf(
  model: Model,
  pruning: SequencePruning,
  policy: EvictingPolicy,
  layer: number,
  index: number,
): HeadEntries {
  const heads = pruning.pruned.heads(layer);
  const head = heads[index];
  const shape = model.architecture.layers[layer]?.attention;
  invariant(head !== undefined && shape != null, `layer ${layer} has KV head ${index}`);
  const { length, positions, cache } = head;
  return {
    layer,
    numLayers: model.numLayers,
    head: index,
    length,
    positions: positions.slice(),
    numSinks: Math.min(length, lowerBound(positions, policy.sink)),
    numRecent: Math.min(length, policy.recent),
    attention: () => head.scores.slice(),
    layerAttention: () => layerMean(heads, length),
    keyNorms: () => norms(cache.keys(), cache.headDim),
    valueNorms: () => norms(cache.values(), cache.headDim),
    keySimilarities: () => keySimilarities(cache.keys(), cache.headDim),
    expectedAttention: (numFuture, skip) => {
      invariant(pruning.queries !== null, 'the policy asked for the queries');
      const next = (positions.at(-1) ?? 0) + 1;
      return pruning.queries.expectedAttention(layer, index, cache.keys(), { next, numFuture, skip });
    },
  };
}

/** Heads whose entries are those of one another: policies that ask for the layer's mean evict alike everywhere. */
function layerMean(heads: readonly PrunedHead[], length: number): Float32Array {
  const mean = new Float32Array(length);
  for (const { scores } of heads) {
    invariant(scores.length === length, 'all heads of the layer hold as many entries');
    for (let i = 0; i < length; i++) mean[i] = (mean[i] ?? 0) + (scores[i] ?? 0) / heads.length;
  }
  return mean;
}

/** The budget, raised to what is protected in any case. */
function allowance({ length, numSinks, numRecent }: HeadEntries, budget: number): number {
  return Math.min(length, Math.max(budget, Math.min(length, numSinks + numRecent)));
}

function isAllowed(kept: Int32Array, { length, numSinks, numRecent }: HeadEntries, budget: number): boolean {
  if (kept.length > budget) return false;
  const sinksStay = kept.subarray(0, numSinks).every((index, i) => index === i);
  const recentStay = kept
    .subarray(kept.length - numRecent)
    .every((index, i) => index === length - numRecent + i);
  return kept.length >= Math.max(numSinks, numRecent) && sinksStay && recentStay;
}

/** Slots that stay, null = all; checked, so that no policy can break what the engine promises. */
function select(policy: EvictingPolicy, entries: HeadEntries, budget: number): Int32Array | null {
  const allowed = allowance(entries, budget);
  if (allowed >= entries.length) return null;
  const kept = policy.select(entries, allowed);
  invariant(isAllowed(kept, entries, allowed), 'a policy keeps what is protected, within its budget');
  return kept;
}

/** All are asked before the first entry goes: a layer's mean must not miss what another head has evicted already. */
function evict(
  policy: EvictingPolicy,
  plans: readonly { readonly head: PrunedHead; readonly entries: HeadEntries; readonly budget: number }[],
): void {
  const kept = plans.map(({ entries, budget }) => select(policy, entries, budget));
  plans.forEach(({ head }, i) => {
    const indices = kept[i];
    if (indices != null) head.keep(indices);
  });
}

/** Evicts in every head of a layer by its own budget. */
export function evictLayer(
  model: Model,
  pruning: SequencePruning,
  policy: EvictingPolicy,
  layer: number,
): void {
  const plans = pruning.pruned.heads(layer).map((head, index) => {
    const average = keptEntries(policy.budget, head.numAppended);
    const budget = policy.layerBudget?.(layer, model.numLayers, average, head.numAppended) ?? average;
    return { head, entries: entriesOf(model, pruning, policy, layer, index), budget };
  });
  evict(policy, plans);
}

/** Evicts in all heads of the model, which share one budget. */
export function evictModel(model: Model, pruning: SequencePruning, policy: EvictingPolicy): void {
  const heads = pruning.pruned.all.flatMap((layer, l) =>
    layer.map((head, index) => ({ head, entries: entriesOf(model, pruning, policy, l, index) })),
  );
  const numSeen = heads.reduce((sum, { head }) => sum + head.numAppended, 0);
  const average = keptEntries(policy.budget, Math.round(numSeen / Math.max(1, heads.length)));
  const budgets =
    policy.allot?.(
      heads.map(({ entries }) => entries),
      average,
    ) ?? [];
  evict(
    policy,
    heads.map((head, i) => ({ ...head, budget: budgets[i] ?? 0 })),
  );
}
