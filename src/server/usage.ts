/** Usage and timings: summed over the prompts of a request, and as they stand in replies. */
import type { Timings, Usage } from '../runtime/protocol.ts';

export function sumUsage(parts: readonly Usage[]): Usage {
  const sum = { promptTokens: 0, cachedTokens: 0, completionTokens: 0 };
  for (const part of parts) {
    sum.promptTokens += part.promptTokens;
    sum.cachedTokens += part.cachedTokens;
    sum.completionTokens += part.completionTokens;
  }
  return sum;
}

/** Sums, but for the time to the first token: that of the prompt which was first. */
export function sumTimings(parts: readonly Timings[]): Timings {
  const sum = { queueMs: 0, prefillMs: 0, decodeMs: 0 };
  for (const part of parts) {
    sum.queueMs += part.queueMs;
    sum.prefillMs += part.prefillMs;
    sum.decodeMs += part.decodeMs;
  }
  return { ...sum, ttftMs: Math.min(...parts.map(({ ttftMs }) => ttftMs)) };
}

export function usageObject({ promptTokens, cachedTokens, completionTokens }: Usage) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}

/** Prompt tokens a second are of those computed, not of those found in the prefix cache. */
export function timingsObject({ queueMs, prefillMs, ttftMs, decodeMs }: Timings, usage: Usage) {
  return {
    queue_ms: round(queueMs),
    prefill_ms: round(prefillMs),
    ttft_ms: round(ttftMs),
    decode_ms: round(decodeMs),
    prompt_tokens_per_second: perSecond(usage.promptTokens - usage.cachedTokens, prefillMs),
    tokens_per_second: perSecond(usage.completionTokens, decodeMs),
  };
}

/** 0 where no time went by: one token has no decode time. */
function perSecond(count: number, ms: number): number {
  return ms > 0 ? round((count * 1000) / ms) : 0;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
