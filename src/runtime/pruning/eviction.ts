/** Evicts cache entries: asks the policy which, works out how many, and holds it to the protections. */
import { invariant } from '../../errors.ts';
import { lowerBound, type PrunedHead, range } from '../../kv/pruned-cache.ts';
import { type EvictingPolicy, type HeadEntries, keptEntries } from '../../policies/index.ts';
import type { Model } from '../model.ts';
import { keySimilarities, norms } from './entry-signals.kernel.ts';
import { firstInWindow } from './row-feed.ts';
import type { SequencePruning } from './sequence-pruning.ts';

/** The entries of a head among which the policy chooses: those from slot `from` on. */
interface Choice {
  readonly head: PrunedHead;
  readonly from: number;
  readonly entries: HeadEntries;
}

/** First slot that a later token can see: what a layer's sliding window has left behind is of no use to any. */
function firstVisible(model: Model, layer: number, { positions }: PrunedHead): number {
  return firstInWindow(positions, (positions.at(-1) ?? 0) + 1, model.architecture.layers[layer]?.window);
}

function choiceOf(
  model: Model,
  pruning: SequencePruning,
  policy: EvictingPolicy,
  layer: number,
  index: number,
): Choice {
  const heads = pruning.pruned.heads(layer);
  const head = heads[index];
  const shape = model.architecture.layers[layer]?.attention;
  invariant(head !== undefined && shape != null, `layer ${layer} has KV head ${index}`);
  const { cache } = head;
  const from = firstVisible(model, layer, head);
  const positions = head.positions.subarray(from);
  const { length } = positions;
  const entries: HeadEntries = {
    layer,
    numLayers: model.numLayers,
    head: index,
    length,
    positions: positions.slice(),
    numSinks: Math.min(length, lowerBound(positions, policy.sink)),
    numRecent: Math.min(length, policy.recent),
    attention: () => head.scores.slice(from),
    layerAttention: () => layerMean(heads, from),
    keyNorms: () => norms(cache.keys(from), cache.headDim),
    valueNorms: () => norms(cache.values(from), cache.headDim),
    keySimilarities: () => keySimilarities(cache.keys(from), cache.headDim),
    expectedAttention: (numFuture, skip) => {
      invariant(pruning.queries !== null, 'the policy asked for the queries');
      const next = (head.positions.at(-1) ?? 0) + 1;
      return pruning.queries.expectedAttention(layer, index, cache.keys(from), { next, numFuture, skip });
    },
  };
  return { head, from, entries };
}

/** Heads whose entries are those of one another: policies that ask for the layer's mean evict alike everywhere. */
function layerMean(heads: readonly PrunedHead[], from: number): Float32Array {
  const [first] = heads;
  const mean = new Float32Array((first?.length ?? 0) - from);
  for (const { scores, length } of heads) {
    invariant(length === first?.length, 'all heads of the layer hold as many entries');
    for (let i = from; i < length; i++)
      mean[i - from] = (mean[i - from] ?? 0) + (scores[i] ?? 0) / heads.length;
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
function select(policy: EvictingPolicy, { from, entries }: Choice, budget: number): Int32Array | null {
  const allowed = allowance(entries, budget);
  if (allowed >= entries.length) return from === 0 ? null : range(from, from + entries.length);
  const kept = policy.select(entries, allowed);
  invariant(isAllowed(kept, entries, allowed), 'a policy keeps what is protected, within its budget');
  return from === 0 ? kept : kept.map((index) => from + index);
}

/** All are asked before the first entry goes: a layer's mean must not miss what another head has evicted already. */
function evict(
  policy: EvictingPolicy,
  plans: readonly { readonly choice: Choice; readonly budget: number }[],
): void {
  const kept = plans.map(({ choice, budget }) => select(policy, choice, budget));
  plans.forEach(({ choice }, i) => {
    const slots = kept[i];
    if (slots != null) choice.head.keep(slots);
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
    return { choice: choiceOf(model, pruning, policy, layer, index), budget };
  });
  evict(policy, plans);
}

/** Evicts in all heads of the model, which share one budget. */
export function evictModel(model: Model, pruning: SequencePruning, policy: EvictingPolicy): void {
  const choices = pruning.pruned.all.flatMap((heads, layer) =>
    heads.map((_, index) => choiceOf(model, pruning, policy, layer, index)),
  );
  const numSeen = choices.reduce((sum, { head }) => sum + head.numAppended, 0);
  const average = keptEntries(policy.budget, Math.round(numSeen / Math.max(1, choices.length)));
  const budgets =
    policy.allot?.(
      choices.map(({ entries }) => entries),
      average,
    ) ?? [];
  evict(
    policy,
    choices.map((choice, i) => ({ choice, budget: budgets[i] ?? 0 })),
  );
}
