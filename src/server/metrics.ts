/** The server's metrics: every family with its name, meaning and labels, and the page that shows them. */
import { Counter, Registry } from 'prom-client';
import { ERROR_LABELS } from '../errors.ts';
import { MODULES, policyLabel } from '../policies/index.ts';
import type { PruningChoice } from '../policies/index.ts';
import { addEngineMetrics, addVllmMetrics } from './engine-metrics.ts';
import type { ModelPool } from './model-pool.ts';
import { PolicyHistogram } from './policy-histogram.ts';

/** From a token of a small model to a long prompt on a busy machine, in seconds. */
const REQUEST_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640];
/** Decode steps on CPUs take 1 ms to 1 s; finer where most are. */
const TOKEN_SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10,
];
const TOKENS = [1, 2, 5].flatMap((digit) => [1, 10, 100, 1e3, 1e4, 1e5].map((power) => digit * power));
TOKENS.sort((a, b) => a - b);

/** Each label costs two hundred lines a scrape; combinations that come after as many others are `custom`. */
const MAX_COMBINATIONS = 16;

export interface MetricsOptions {
  readonly models: ModelPool;
  readonly compat: readonly 'vllm'[];
}

/** What requests count. Latencies are those of requests that ran to their end. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #combinations = new Set<string>();
  readonly #histograms: PolicyHistogram[] = [];

  readonly promptTokens = this.#counter('prompt_tokens_total', 'Prompt tokens, as in usage.');
  readonly generationTokens = this.#counter('generation_tokens_total', 'Completion tokens, as in usage.');
  readonly successes = this.#counter('request_success_total', 'Choices that ended.', ['finish_reason']);
  readonly errors = this.#counter('request_errors_total', 'Replies with an error, probes apart.', ['code']);
  readonly cancelled = this.#counter('requests_cancelled_total', 'Requests whose client left.');

  readonly pruningRequests = this.#counter('pruning_requests_total', 'Requests that left something out.', [
    'policy',
  ]);
  readonly pruningSeen = this.#counter(
    'pruning_tokens_seen_total',
    'What policies chose from: prompt tokens (tokens), entries of all KV heads (kv).',
    ['policy', 'family'],
  );
  readonly pruningKept = this.#counter(
    'pruning_tokens_kept_total',
    'Of it, prompt tokens that reached the last layer (tokens), entries left at the end (kv).',
    ['policy', 'family'],
  );
  readonly revived = this.#counter(
    'pruning_revived_tokens_total',
    'Tokens that a later step computed again.',
    ['policy'],
  );
  readonly kvBytesSaved = this.#counter(
    'pruning_kv_bytes_saved_total',
    'Bytes of KV that requests did not hold at their end.',
    ['policy'],
  );

  readonly timeToFirstToken = this.#seconds(
    'time_to_first_token_seconds',
    'From arrival to the first token.',
  );
  readonly interTokenLatency = this.#histogram(
    'inter_token_latency_seconds',
    'Between a token and the next one of the same choice.',
    TOKEN_SECONDS,
  );
  readonly timePerOutputToken = this.#histogram(
    'time_per_output_token_seconds',
    'Decode time a token after the first, the mean of a request.',
    TOKEN_SECONDS,
  );
  readonly e2eLatency = this.#seconds(
    'e2e_request_latency_seconds',
    'From arrival to the end of the last choice.',
  );
  readonly queueTime = this.#seconds(
    'request_queue_time_seconds',
    'From arrival to the start of the prefill.',
  );
  readonly prefillTime = this.#seconds('request_prefill_time_seconds', 'From there to the first token.');
  readonly decodeTime = this.#seconds('request_decode_time_seconds', 'From there to the end.');
  readonly requestPromptTokens = this.#histogram('request_prompt_tokens', 'Prompt tokens a request.', TOKENS);
  readonly requestGenerationTokens = this.#histogram(
    'request_generation_tokens',
    'Completion tokens a request, over its choices.',
    TOKENS,
  );

  constructor({ models, compat }: MetricsOptions) {
    addEngineMetrics(this.#registry, models.models);
    if (compat.includes('vllm')) addVllmMetrics(this.#registry, models.models);
    // Drafting does not exist yet; dashboards may ask for it all the same.
    const drafts = [
      this.#counter('spec_decode_drafts_total', 'Drafts that were verified.'),
      this.#counter('spec_decode_draft_tokens_total', 'Tokens of these drafts.'),
      this.#counter('spec_decode_accepted_tokens_total', 'Of these, accepted.'),
    ];
    for (const { id: model_name } of models.models) {
      for (const counter of drafts) counter.inc({ model_name }, 0);
      this.#startAtZero(model_name);
    }
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The label `policy`: presets and single policies by name, and so many combinations of policies. */
  policyLabel(choice: PruningChoice | null): string {
    const label = policyLabel(choice);
    if (choice?.preset != null || !label.includes('+')) return label;
    if (this.#combinations.size < MAX_COMBINATIONS) this.#combinations.add(label);
    return this.#combinations.has(label) ? label : 'custom';
  }

  /** The page. Asks the engine nothing: a scrape never waits for its turn to end. */
  async render(): Promise<string> {
    const registered = await this.#registry.metrics();
    const histograms = await Promise.all(this.#histograms.map((histogram) => histogram.render()));
    return `${[registered.trimEnd(), ...histograms].join('\n\n')}\n`;
  }

  /** A series that begins at its first increment hides it from rates. */
  #startAtZero(model_name: string): void {
    const model = { model_name };
    for (const counter of [this.promptTokens, this.generationTokens, this.cancelled]) counter.inc(model, 0);
    for (const finish_reason of ['stop', 'length', 'tool_calls'])
      this.successes.inc({ ...model, finish_reason }, 0);
    for (const code of ERROR_LABELS) this.errors.inc({ ...model, code }, 0);
    for (const histogram of this.#histograms) histogram.labels({ ...model, policy: 'none' });
    for (const { name: policy, family } of MODULES) {
      const labels = { ...model, policy };
      this.pruningRequests.inc(labels, 0);
      if (family === 'layers') continue;
      this.pruningSeen.inc({ ...labels, family }, 0);
      this.pruningKept.inc({ ...labels, family }, 0);
      if (family === 'tokens') this.revived.inc(labels, 0);
      if (family === 'kv') this.kvBytesSaved.inc(labels, 0);
    }
  }

  #counter<L extends string = never>(
    name: string,
    help: string,
    labels: readonly L[] = [],
  ): Counter<L | 'model_name'> {
    const labelNames = ['model_name', ...labels] as const;
    return new Counter({ name: `coppice_${name}`, help, labelNames, registers: [this.#registry] });
  }

  #seconds(name: string, help: string): PolicyHistogram {
    return this.#histogram(name, help, REQUEST_SECONDS);
  }

  #histogram(name: string, help: string, buckets: number[]): PolicyHistogram {
    const histogram = new PolicyHistogram({ name: `coppice_${name}`, help, buckets });
    this.#histograms.push(histogram);
    return histogram;
  }
}
