/** An upper bound of the memory that a pruned sequence will need: what admission goes by. */
import { auxBytes } from '../../kv/aux-cache.ts';
import { headBytes } from '../../kv/head-cache.ts';
import { type ActivePolicies, keptEntries } from '../../policies/index.ts';
import type { Model } from '../model.ts';

/** Layers whose heads are whole at a time during a prompt: the one that is read and the one that is filled. */
const OPEN_LAYERS = 2;

/** Tokens that enter each layer. */
function tokensByLayer(
  { tokens }: ActivePolicies,
  numLayers: number,
  { promptTokens: numTokens }: Extent,
): number[] {
  const counts: number[] = [];
  let alive = numTokens;
  for (let layer = 0; layer < numLayers; layer++) {
    const entering = layer === 0 ? null : (tokens?.budget(layer - 1, alive, numTokens) ?? null);
    const entered = entering ?? alive;
    // What can be computed again, or passes by one layer only, may come to all of them.
    const isForGood = tokens?.rest === 'leave' && !tokens.revives;
    if (isForGood) alive = entered;
    counts.push(isForGood ? entered : numTokens);
  }
  return counts;
}

/**
 * Of rows that wait to be computed again. A token waits after one layer at most, and those that one step selects for
 * the last stage wait nowhere: the others may all have come up to it, or be anywhere before.
 */
function waitingBytes({ tokens }: ActivePolicies, model: Model, numTokens: number): number {
  if (tokens?.revives !== true) return 0;
  let alive = numTokens;
  let numStages = 0;
  for (let layer = 0; layer < model.numLayers - 1; layer++) {
    const budget = tokens.budget(layer, alive, numTokens);
    if (budget === null) continue;
    alive = budget;
    numStages++;
  }
  if (alive === numTokens) return 0;
  const { hiddenSize } = model.architecture.config;
  return auxBytes(hiddenSize, numTokens - alive) + (numStages - 1) * auxBytes(hiddenSize, 1);
}

/** Entries that a head keeps of `numEntries` once its layer is done. */
function keptBy({ kv }: ActivePolicies, layer: number, head: number, numEntries: number): number {
  if (kv?.kind === 'split' && kv.streaming[layer]?.[head] === true)
    return Math.min(numEntries, kv.sink + kv.recent + 1);
  if (kv?.kind !== 'evict' || kv.allot !== undefined) return numEntries;
  const average = keptEntries(kv.budget, numEntries);
  const budget = kv.layerBudget?.(layer, Infinity, average, numEntries) ?? average;
  return Math.min(numEntries, Math.max(Number.isFinite(budget) ? budget : numEntries, kv.sink + kv.recent));
}

export interface Extent {
  readonly promptTokens: number;
  readonly newTokens: number;
}

/** Bytes for a prompt and all tokens after it. */
export function peakBytes(policies: ActivePolicies, model: Model, extent: Extent): number {
  const { promptTokens, newTokens } = extent;
  const counts = tokensByLayer(policies, model.numLayers, extent);
  let bytes = 0;
  const passing: number[] = [];
  model.kvShape.forEach(({ kvHeads, headDim }, layer) => {
    if (policies.layers?.attention[layer] === false) return;
    const numPrompt = counts[layer] ?? promptTokens;
    let extra = 0;
    for (let head = 0; head < kvHeads; head++) {
      const full = headBytes(headDim, numPrompt);
      const isStreaming = policies.kv?.kind === 'split' && policies.kv.streaming[layer]?.[head] === true;
      const growth = isStreaming ? 1 : newTokens;
      const kept = headBytes(headDim, keptBy(policies, layer, head, numPrompt) + growth);
      bytes += kept;
      extra += Math.max(0, full - kept);
    }
    passing.push(extra);
  });
  const waiting = waitingBytes(policies, model, promptTokens + newTokens);
  return bytes + OPEN_LAYERS * Math.max(0, ...passing) + waiting;
}
