/** The contract's families of metrics, without their prefix. */
export const HISTOGRAMS = [
  'time_to_first_token_seconds',
  'inter_token_latency_seconds',
  'time_per_output_token_seconds',
  'e2e_request_latency_seconds',
  'request_queue_time_seconds',
  'request_prefill_time_seconds',
  'request_decode_time_seconds',
  'request_prompt_tokens',
  'request_generation_tokens',
];
/** Zero when nothing runs. */
export const GAUGES = ['requests_running', 'requests_waiting', 'kv_bytes', 'kv_usage_ratio'];
export const LIMITS = ['prefix_cache_bytes', 'kv_bytes_limit'];
export const COUNTERS = [
  'prompt_tokens_total',
  'generation_tokens_total',
  'request_success_total',
  'request_errors_total',
  'requests_cancelled_total',
  'preemptions_total',
  'prefix_cache_queries_total',
  'prefix_cache_hits_total',
  'spec_decode_drafts_total',
  'spec_decode_draft_tokens_total',
  'spec_decode_accepted_tokens_total',
  'pruning_requests_total',
  'pruning_tokens_seen_total',
  'pruning_tokens_kept_total',
  'pruning_revived_tokens_total',
  'pruning_kv_bytes_saved_total',
];
