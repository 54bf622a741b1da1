/** What was left out: summed over the prompts of a request, and as it stands in replies. */
import { invariant } from '../errors.ts';
import type { PruningChoice } from '../policies/index.ts';
import type { KvReport, LayersReport, PruningReport, TokensReport } from '../runtime/protocol.ts';

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

/** The reply's `pruning` object. */
export function pruningObject({ preset, families }: PruningChoice, report: PruningReport | null): object {
  const policy = (family: keyof PruningReport): string => {
    const chosen = families[family];
    invariant(chosen, `a ${family} policy was chosen where the engine reports on one`);
    return chosen.policy;
  };
  const { tokens = null, kv = null, layers = null } = report ?? {};
  return {
    preset,
    ...(tokens && { tokens: { policy: policy('tokens'), ...tokensObject(tokens) } }),
    ...(kv && { kv: { policy: policy('kv'), ...kvObject(kv) } }),
    ...(layers && { layers: { policy: policy('layers'), ...layersObject(layers) } }),
  };
}

function tokensObject({ seen, stages, rowsComputed, layers, revived, auxBytes }: TokensReport) {
  return {
    seen,
    stages: stages.map((stage) => ({ layer: stage.layer, seen: stage.seen, kept: stage.kept })),
    computed_share: seen === 0 ? 0 : Math.round((rowsComputed / (layers * seen)) * 10_000) / 10_000,
    revived,
    aux_bytes: auxBytes,
  };
}

function kvObject(report: KvReport) {
  const { retrievalHeads, streamingHeads } = report;
  return {
    bytes: report.bytes,
    peak_bytes: report.peakBytes,
    dense_bytes: report.denseBytes,
    entries_kept: report.entriesKept,
    entries_seen: report.entriesSeen,
    ...(retrievalHeads !== null && { retrieval_heads: retrievalHeads }),
    ...(streamingHeads !== null && { streaming_heads: streamingHeads }),
  };
}

function layersObject({ droppedAttention, droppedMlp, maskedHeads }: LayersReport) {
  return { dropped_attention: droppedAttention, dropped_mlp: droppedMlp, masked_heads: maskedHeads };
}
