/** Metrics of the engine's state, read at scrape time from what it told last: under our names, and under vLLM's. */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { EngineStats } from '../runtime/protocol.ts';

/** Null while the model loads. */
type Source = () => EngineStats | null;
type Read = (stats: EngineStats) => number;

function addGauge(registry: Registry, source: Source, [name, help, read]: readonly [string, string, Read]) {
  return new Gauge({
    name,
    help,
    registers: [registry],
    collect() {
      const stats = source();
      this.set(stats === null ? 0 : read(stats));
    },
  });
}

/** Of a total that the engine counts itself, and that never falls. */
function addCounter(registry: Registry, source: Source, [name, help, read]: readonly [string, string, Read]) {
  return new Counter({
    name,
    help,
    registers: [registry],
    collect() {
      const stats = source();
      this.reset();
      this.inc(stats === null ? 0 : read(stats));
    },
  });
}

/** Share of the KV limit that running sequences hold, in [0, 1]. */
const usageRatio: Read = ({ kvBytes, kvLimitBytes }) => kvBytes / kvLimitBytes;

export function addEngineMetrics(registry: Registry, source: Source): void {
  for (const gauge of [
    ['coppice_requests_running', 'Choices that are being computed.', ({ running }) => running],
    ['coppice_requests_waiting', 'Choices that wait for their turn.', ({ waiting }) => waiting],
    ['coppice_prefix_cache_bytes', 'Bytes kept for prompts to come.', (stats) => stats.prefixCacheBytes],
    ['coppice_kv_bytes_limit', 'Bytes of KV, kept prefixes included.', (stats) => stats.kvLimitBytes],
    ['coppice_kv_usage_ratio', 'Share of the limit that running choices hold.', usageRatio],
  ] satisfies [string, string, Read][])
    addGauge(registry, source, gauge);
  new Gauge({
    name: 'coppice_kv_bytes',
    help: 'Bytes of KV that running choices hold: in heads left alone, of either kind of a split, or evicted from.',
    labelNames: ['kind'],
    registers: [registry],
    collect() {
      const bytes = source()?.kvBytesByKind;
      for (const kind of ['dense', 'retrieval', 'streaming', 'pruned'] as const)
        this.set({ kind }, bytes?.[kind] ?? 0);
    },
  });
  for (const counter of [
    ['coppice_preemptions_total', 'Choices that gave their KV back to others.', (stats) => stats.preemptions],
    ['coppice_prefix_cache_queries_total', 'Prompt tokens that were started.', (stats) => stats.promptTokens],
    [
      'coppice_prefix_cache_hits_total',
      'Of these, found in the prefix cache.',
      (stats) => stats.cachedTokens,
    ],
  ] satisfies [string, string, Read][])
    addCounter(registry, source, counter);
}

/** The KV here has no blocks: routers that count in blocks are told of as many of vLLM's default size as would fit. */
const VLLM_BLOCK_TOKENS = 16;

/** The same values under the names that routers scrape from vLLM. */
export function addVllmMetrics(registry: Registry, source: Source): void {
  const hitRate: Read = ({ cachedTokens, promptTokens }) =>
    promptTokens === 0 ? 0 : cachedTokens / promptTokens;
  for (const gauge of [
    ['vllm:num_requests_running', 'As coppice_requests_running.', ({ running }) => running],
    ['vllm:num_requests_waiting', 'As coppice_requests_waiting.', ({ waiting }) => waiting],
    ['vllm:kv_cache_usage_perc', 'As coppice_kv_usage_ratio; 1 is full.', usageRatio],
    ['vllm:gpu_cache_usage_perc', 'As coppice_kv_usage_ratio; 1 is full.', usageRatio],
    ['vllm:gpu_prefix_cache_hit_rate', 'Share of prompt tokens found in the prefix cache.', hitRate],
  ] satisfies [string, string, Read][])
    addGauge(registry, source, gauge);
  for (const counter of [
    ['vllm:prefix_cache_queries_total', 'As coppice_prefix_cache_queries_total.', (s) => s.promptTokens],
    ['vllm:prefix_cache_hits_total', 'As coppice_prefix_cache_hits_total.', (s) => s.cachedTokens],
  ] satisfies [string, string, Read][])
    addCounter(registry, source, counter);
  new Gauge({
    name: 'vllm:cache_config_info',
    help: 'Size of the KV cache, as if it were made of blocks.',
    labelNames: ['block_size', 'num_gpu_blocks'],
    registers: [registry],
    collect() {
      const stats = source();
      if (stats === null) return;
      const blocks = Math.floor(stats.kvLimitTokens / VLLM_BLOCK_TOKENS);
      this.set({ block_size: VLLM_BLOCK_TOKENS, num_gpu_blocks: blocks }, 1);
    },
  });
}
