/** Cost of all settings: time, memory and work, one request at a time, item by item so that drift hits all alike. */
import type { PruningReport } from '../src/runtime/protocol.ts';
import { SettingError, type Driver, type PoolBytes, type Reply } from './driver.ts';
import type { Question } from './items.ts';
import { mean, median } from './scores.ts';
import type { Setting } from './settings.ts';

/** Decoded tokens of each timed request, where the context has room for them; no answer ends it earlier. */
const DECODE_TOKENS = 32;

/** Of one request. */
export interface Sample {
  readonly promptTokens: number;
  readonly ttftMs: number;
  readonly prefillMs: number;
  readonly decodeMsPerToken: number;
  readonly pool: PoolBytes;
  readonly report: PruningReport | null;
}

/** Means over the items of one length. Shares are of what the dense run needs, by the engine's own report. */
export interface Cost {
  readonly items: number;
  readonly prompt_tokens: number;
  readonly ttft_ms: number;
  readonly prefill_tokens_per_s: number;
  readonly decode_tokens_per_s: number;
  /** Bytes of K/V at the end and at the peak; null where no `kv` policy reports. */
  readonly kv_share: number | null;
  readonly kv_peak_share: number | null;
  /** Rows that entered layers, of prompt tokens x layers. */
  readonly computed_share: number;
  /** Bytes that the KV pool really held. */
  readonly pool_peak_bytes: number;
  readonly pool_end_bytes: number;
}

/** Medians over items of (this setting / dense); speeds: above 1 = faster than dense. */
export interface CostRatios {
  readonly ttft_speedup: number;
  readonly prefill_speedup: number;
  readonly decode_speedup: number;
  readonly pool_peak: number;
  readonly pool_end: number;
}

/** Told what is going on, a line each. */
export type Log = (line: string) => void;

export interface Listeners {
  /** A setting is given up. */
  readonly onFailure: (setting: Setting, error: SettingError) => void;
  readonly log: Log;
}

/** Samples [setting name][item], each item under all settings before the next one; failures are told and left out. */
export async function sampleCosts(
  driver: Driver,
  settings: readonly Setting[],
  questions: readonly Question[],
  { onFailure, log }: Listeners,
): Promise<Map<string, Sample[]>> {
  const samples = new Map(settings.map(({ name }) => [name, [] as Sample[]]));
  const running = new Set(settings);
  const [warmup] = questions;
  for (const [i, question] of (warmup === undefined ? [] : [warmup, ...questions]).entries()) {
    if (i > 0) log(`cost: ${question.id} (${i} of ${questions.length}) under ${running.size} settings`);
    for (const setting of running) {
      try {
        const sample = await sampleOne(driver, setting, question);
        samples.get(setting.name)?.push(sample);
      } catch (error) {
        if (!(error instanceof SettingError)) throw error;
        running.delete(setting);
        samples.delete(setting.name);
        onFailure(setting, error);
      }
    }
  }
  // The first run of each setting warmed up what only it uses.
  for (const list of samples.values()) list.shift();
  return samples;
}

async function sampleOne(driver: Driver, { choice }: Setting, { promptIds }: Question): Promise<Sample> {
  const maxTokens = Math.min(DECODE_TOKENS, driver.model.info.contextLength - promptIds.length);
  const { replies, pool } = await driver.run([{ promptIds, maxTokens }], choice);
  const { timings, pruning } = (replies[0] as Reply).done;
  return {
    promptTokens: promptIds.length,
    ttftMs: timings.ttftMs,
    prefillMs: timings.prefillMs,
    decodeMsPerToken: timings.decodeMs / (maxTokens - 1),
    pool,
    report: pruning,
  };
}

/** @param samples of one setting and one length, at least one */
export function summariseCost(samples: readonly Sample[]): Cost {
  const average = (of: (sample: Sample) => number): number => mean(samples.map(of));
  const kv = (of: (report: NonNullable<PruningReport['kv']>) => number): number | null => {
    const shares = samples.map(({ report }) => {
      // Without a report nothing was left out.
      if (report === null) return 1;
      return report.kv === null ? null : of(report.kv);
    });
    const known = shares.filter((share) => share !== null);
    return known.length === 0 ? null : mean(known);
  };
  return {
    items: samples.length,
    prompt_tokens: average(({ promptTokens }) => promptTokens),
    ttft_ms: average(({ ttftMs }) => ttftMs),
    prefill_tokens_per_s:
      (1000 * average(({ promptTokens }) => promptTokens)) / average(({ prefillMs }) => prefillMs),
    decode_tokens_per_s: 1000 / average(({ decodeMsPerToken }) => decodeMsPerToken),
    kv_share: kv(({ bytes, denseBytes }) => bytes / denseBytes),
    kv_peak_share: kv(({ peakBytes, denseBytes }) => peakBytes / denseBytes),
    computed_share: average(({ report }) => {
      const tokens = report?.tokens ?? null;
      return tokens === null ? 1 : tokens.rowsComputed / (tokens.layers * tokens.seen);
    }),
    pool_peak_bytes: average(({ pool }) => pool.peak),
    pool_end_bytes: average(({ pool }) => pool.end),
  };
}

/** @param samples and @param dense of the same items, in the same order */
export function costRatios(samples: readonly Sample[], dense: readonly Sample[]): CostRatios {
  const ratio = (of: (sample: Sample) => number): number =>
    median(samples.map((sample, i) => of(sample) / of(dense[i]!)));
  return {
    ttft_speedup: 1 / ratio(({ ttftMs }) => ttftMs),
    prefill_speedup: 1 / ratio(({ prefillMs }) => prefillMs),
    decode_speedup: 1 / ratio(({ decodeMsPerToken }) => decodeMsPerToken),
    pool_peak: ratio(({ pool }) => pool.peak),
    pool_end: ratio(({ pool }) => pool.end),
  };
}
