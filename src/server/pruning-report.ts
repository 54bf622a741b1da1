/** What was left out, as it stands in replies. */
import { invariant } from '../errors.ts';
import type { PruningChoice } from '../policies/index.ts';
import type { KvReport, LayersReport, PruningReport, TokensReport } from '../runtime/protocol.ts';

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

/** Prompt tokens that reached the last layer. */
export function keptTokens({ seen, stages }: TokensReport): number {
  return stages.at(-1)?.kept ?? seen;
}

/** What the request did not hold at its end. */
export function savedBytes({ bytes, denseBytes }: KvReport): number {
  return Math.max(0, denseBytes - bytes);
}
