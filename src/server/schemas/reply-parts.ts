/** Parts that several replies have in common: counts, totals, log-probabilities. */
import { z } from 'zod';

export const count = z.int().min(0);
export const milliseconds = z.number().min(0);
const rate = z.number().min(0).describe('tokens a second; 0 where no time went by');
/** Of a key that is always there and that nothing is ever said with. */
export const nothing = z.null();

const tokensReport = z.object({
  policy: z.string(),
  seen: count,
  stages: z.array(z.object({ layer: count, seen: count, kept: count })),
  computed_share: z.number().min(0).describe('prompt rows computed / (layers x seen)'),
  revived: count.describe('tokens computed again, over steps and stages'),
  aux_bytes: count,
});

const kvReport = z.object({
  policy: z.string(),
  bytes: count.describe('held at the end'),
  peak_bytes: count,
  dense_bytes: count.describe('of the same sequence with nothing left out'),
  entries_kept: count,
  entries_seen: count,
  retrieval_heads: count.optional(),
  streaming_heads: count.optional(),
});

const layersReport = z.object({
  policy: z.string(),
  dropped_attention: count,
  dropped_mlp: count,
  masked_heads: count,
});

/** Our own objects: what was left out, and where the time went. */
export const totals = {
  pruning: z
    .object({
      preset: z.string().nullable(),
      tokens: tokensReport.optional(),
      kv: kvReport.optional(),
      layers: layersReport.optional(),
    })
    .optional()
    .describe('absent when nothing was asked or is left out by default'),
  timings: z.object({
    queue_ms: milliseconds,
    prefill_ms: milliseconds,
    ttft_ms: milliseconds,
    decode_ms: milliseconds,
    prompt_tokens_per_second: rate,
    tokens_per_second: rate,
  }),
};

const tokenLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int().min(0).max(255)),
});
export const chatLogprob = tokenLogprob.extend({ top_logprobs: z.array(tokenLogprob) });
