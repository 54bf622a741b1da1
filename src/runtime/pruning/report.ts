/** Sums what was left out, over the choices and prompts of a request. */
import { invariant } from '../../errors.ts';
import type { KvReport, PruningReport, TokensReport } from '../protocol.ts';

/** Null when no prompt has a report. What describes the plan and not the work (layers, heads, blocks) is no sum. */
export function sumPruning(parts: readonly (PruningReport | null)[]): PruningReport | null {
  const reports = parts.filter((part) => part !== null);
  if (reports.length === 0) return null;
  return {
    tokens: fold(
      reports.map(({ tokens }) => tokens),
      addTokens,
    ),
    kv: fold(
      reports.map(({ kv }) => kv),
      addKv,
    ),
    layers: fold(
      reports.map(({ layers }) => layers),
      (layers) => layers,
    ),
  };
}

function fold<T>(parts: readonly (T | null)[], add: (sum: T, part: T) => T): T | null {
  return parts
    .filter((part) => part !== null)
    .reduce<T | null>((sum, part) => (sum === null ? part : add(sum, part)), null);
}

function addTokens(a: TokensReport, b: TokensReport): TokensReport {
  invariant(a.layers === b.layers, 'all prompts of a request run on one model');
  return {
    seen: a.seen + b.seen,
    stages: addStages([...a.stages, ...b.stages]),
    rowsComputed: a.rowsComputed + b.rowsComputed,
    layers: a.layers,
    revived: a.revived + b.revived,
    auxBytes: a.auxBytes + b.auxBytes,
  };
}

function addStages(stages: TokensReport['stages']): TokensReport['stages'] {
  const layers = [...new Set(stages.map(({ layer }) => layer))].sort((a, b) => a - b);
  return layers.map((layer) => {
    const sum = { layer, seen: 0, kept: 0 };
    for (const stage of stages) {
      if (stage.layer !== layer) continue;
      sum.seen += stage.seen;
      sum.kept += stage.kept;
    }
    return sum;
  });
}

function addKv(a: KvReport, b: KvReport): KvReport {
  return {
    bytes: a.bytes + b.bytes,
    peakBytes: a.peakBytes + b.peakBytes,
    denseBytes: a.denseBytes + b.denseBytes,
    entriesKept: a.entriesKept + b.entriesKept,
    entriesSeen: a.entriesSeen + b.entriesSeen,
    retrievalHeads: a.retrievalHeads,
    streamingHeads: a.streamingHeads,
  };
}
