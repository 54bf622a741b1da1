/** Metrics of the engine's state, read at scrape time from what it told last: under our names, and under vLLM's. */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { EngineStats } from '../runtime/protocol.ts';
import type { ServedModel } from './served-model.ts';

type Models = readonly ServedModel[];
type Read = (stats: EngineStats) => number;

/** 0 before the engine told anything. */
function addGauge(registry: Registry, models: Models, [name, help, read]: readonly [string, string, Read]) {
  return new Gauge({
    name,
    help,
    labelNames: ['model_name'],
    registers: [registry],
    collect() {
      for (const { id: model_name, stats } of models)
        this.set({ model_name }, stats === null ? 0 : read(stats));
    },
  });
}

/** Of a total that the engine counts itself, and that never falls. */
function addCounter(registry: Registry, models: Models, [name, help, read]: readonly [string, string, Read]) {
  return new Counter({
    name,
    help,
    labelNames: ['model_name'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { id: model_name, stats } of models)
        this.inc({ model_name }, stats === null ? 0 : read(stats));
    },
  });
}

/** Share of the KV limit that running sequences hold, in [0, 1]. */
const usageRatio: Read = ({ kvBytes, kvLimitBytes }) => kvBytes / kvLimitBytes;

export function addEngineMetrics(registry: Registry, models: Models): void {
  for (const gauge of [
    [
      'coppice_requests_running',
      'Choices that have a place, those of slow readers included until others need it.',
      ({ running }) => running,
    ],
    ['coppice_requests_waiting', 'Choices that wait for their turn.', ({ waiting }) => waiting],
    ['coppice_prefix_cache_bytes', 'Bytes kept for prompts to come.', (stats) => stats.prefixCacheBytes],
    ['coppice_kv_bytes_limit', 'Bytes of KV, kept prefixes included.', (stats) => stats.kvLimitBytes],
    ['coppice_kv_usage_ratio', 'Share of the limit that running choices hold.', usageRatio],
  ] satisfies [string, string, Read][])
    addGauge(registry, models, gauge);
  new Gauge({
    name: 'coppice_kv_bytes',
    help: 'Bytes of KV that running choices hold: in heads left alone, of either kind of a split, or pruned (with what waits to come back).',
    labelNames: ['model_name', 'kind'],
    registers: [registry],
    collect() {
      for (const { id: model_name, stats } of models)
        for (const kind of ['dense', 'retrieval', 'streaming', 'pruned'] as const)
          this.set({ model_name, kind }, stats?.kvBytesByKind[kind] ?? 0);
    },
  });
  for (const counter of [
    [
      'coppice_preemptions_total',
      'Choices that gave their place or KV to others.',
      (stats) => stats.preemptions,
    ],
    ['coppice_prefix_cache_queries_total', 'Prompt tokens that were started.', (stats) => stats.promptTokens],
    [
      'coppice_prefix_cache_hits_total',
      'Of these, found in the prefix cache.',
      (stats) => stats.cachedTokens,
    ],
  ] satisfies [string, string, Read][])
    addCounter(registry, models, counter);
}

/** The KV here has no blocks: routers that count in blocks are told of as many of vLLM's default size as would fit. */
const VLLM_BLOCK_TOKENS = 16;

/** The same values under the names that routers scrape from vLLM. */
export function addVllmMetrics(registry: Registry, models: Models): void {
  const hitRate: Read = ({ cachedTokens, promptTokens }) =>
    promptTokens === 0 ? 0 : cachedTokens / promptTokens;
  for (const gauge of [
    ['vllm:num_requests_running', 'As coppice_requests_running.', ({ running }) => running],
    ['vllm:num_requests_waiting', 'As coppice_requests_waiting.', ({ waiting }) => waiting],
    ['vllm:kv_cache_usage_perc', 'As coppice_kv_usage_ratio; 1 is full.', usageRatio],
    ['vllm:gpu_cache_usage_perc', 'As coppice_kv_usage_ratio; 1 is full.', usageRatio],
    ['vllm:gpu_prefix_cache_hit_rate', 'Share of prompt tokens found in the prefix cache.', hitRate],
  ] satisfies [string, string, Read][])
    addGauge(registry, models, gauge);
  for (const counter of [
    ['vllm:prefix_cache_queries_total', 'As coppice_prefix_cache_queries_total.', (s) => s.promptTokens],
    ['vllm:prefix_cache_hits_total', 'As coppice_prefix_cache_hits_total.', (s) => s.cachedTokens],
  ] satisfies [string, string, Read][])
    addCounter(registry, models, counter);
  new Gauge({
    name: 'vllm:cache_config_info',
    help: 'Size of the KV cache, as if it were made of blocks.',
    labelNames: ['model_name', 'block_size', 'num_gpu_blocks'],
    registers: [registry],
    collect() {
      for (const { id: model_name, stats } of models) {
        if (stats === null) continue;
        const num_gpu_blocks = Math.floor(stats.kvLimitTokens / VLLM_BLOCK_TOKENS);
        this.set({ model_name, block_size: VLLM_BLOCK_TOKENS, num_gpu_blocks }, 1);
      }
    },
  });
}
