/** Metrics: families, labels, counters that rise by exactly what replies say, gauges that return to zero. */
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Exposition } from '../support/exposition.ts';
import { COUNTERS, GAUGES, HISTOGRAMS, LIMITS } from '../support/metric-names.ts';
import { CHAT, COMPLETIONS, target } from './support/target.ts';

const gauges = [...GAUGES, ...LIMITS];
const labels: Record<string, string> = {
  kv_bytes: 'kind',
  request_success_total: 'finish_reason',
  request_errors_total: 'code',
};

const prompt = 'Remember that the key code of the old hammer is 3426. '.repeat(8);
const plain = { prompt, max_tokens: 5, ignore_eos: true, temperature: 0 };
const messages = [{ role: 'user', content: 'hello' }];

let model_name: string;
beforeAll(async () => {
  model_name = (await target.model()).id;
});
beforeEach(() => target.untilIdle());

/** How far each series rose: `name{label="value"}` without the model's name. */
async function rises(
  work: () => Promise<unknown>,
): Promise<(name: string, labels?: Record<string, string>) => number> {
  const before = await target.metrics();
  await work();
  await target.untilIdle();
  const after = await target.metrics();
  const value = (page: Exposition, name: string, wanted: Record<string, string>) =>
    (page.families.get(`coppice_${name}`.replace(/_(sum|count)$/, ''))?.samples ?? [])
      .filter((sample) => sample.name === `coppice_${name}`)
      .filter(({ labels: own }) =>
        Object.entries({ model_name, ...wanted }).every(([key, text]) => own[key] === text),
      )
      .reduce((sum, sample) => sum + sample.value, 0);
  return (name, wanted = {}) => value(after, name, wanted) - value(before, name, wanted);
}

test('every family, with its type, its help and its labels', async () => {
  const { families } = await target.metrics();
  for (const [type, names] of Object.entries({ gauge: gauges, counter: COUNTERS, histogram: HISTOGRAMS })) {
    for (const name of names) {
      const family = families.get(`coppice_${name}`);
      expect(family, name).toMatchObject({ type, help: expect.stringMatching(/\S/) as string });
      const wanted = [
        ...(type === 'histogram' || name.startsWith('pruning_') ? ['policy'] : []),
        ...(name.startsWith('pruning_tokens') ? ['family'] : []),
        ...(labels[name] === undefined ? [] : [labels[name]]),
        'model_name',
      ];
      for (const sample of family?.samples ?? [])
        expect(
          Object.keys(sample.labels)
            .filter((label) => label !== 'le')
            .sort(),
        ).toEqual(wanted.sort());
      expect(family?.samples.length, `samples of ${name}`).toBeGreaterThan(0);
    }
  }
  const kinds = families.get('coppice_kv_bytes')?.samples.map((sample) => sample.labels['kind']);
  expect([...new Set(kinds)].sort()).toEqual(['dense', 'pruned', 'retrieval', 'streaming']);
  expect([...families.keys()].filter((name) => !/^(coppice_|vllm:)/.test(name))).toEqual([]);
});

describe('counters rise by what usage says', () => {
  test('choices, prompts, streams, chats', async () => {
    const used = { prompt: 0, completion: 0, cached: 0 };
    const add = (usage: unknown) => {
      const {
        prompt_tokens: sent,
        completion_tokens: made,
        prompt_tokens_details: details,
      } = usage as {
        prompt_tokens: number;
        completion_tokens: number;
        prompt_tokens_details: { cached_tokens: number };
      };
      used.prompt += sent;
      used.completion += made;
      used.cached += details.cached_tokens;
    };
    const rise = await rises(async () => {
      add((await target.post(COMPLETIONS, { ...plain, n: 2 })).json['usage']);
      add((await target.post(COMPLETIONS, { ...plain, prompt: [prompt, 'x'] })).json['usage']);
      add((await target.post(CHAT, { messages, max_tokens: 60, stop: ['e'] })).json['usage']);
      const options = { stream_options: { include_usage: true } };
      add((await target.stream(CHAT, { messages, max_tokens: 3, ...options })).objects.at(-1)?.['usage']);
    });
    expect(rise('prompt_tokens_total')).toBe(used.prompt);
    expect(rise('generation_tokens_total')).toBe(used.completion);
    expect(rise('prefix_cache_queries_total')).toBe(used.prompt);
    expect(rise('prefix_cache_hits_total')).toBe(used.cached);
    expect(rise('request_success_total')).toBe(6);
    expect(rise('request_success_total', { finish_reason: 'length' })).toBeGreaterThanOrEqual(4);
    for (const name of HISTOGRAMS.filter((each) => !/inter_token|per_output/.test(each)))
      expect(rise(`${name}_count`, { policy: 'none' }), name).toBe(4);
    expect(rise('request_prompt_tokens_sum')).toBe(used.prompt);
    expect(rise('request_generation_tokens_sum')).toBe(used.completion);
    expect(rise('inter_token_latency_seconds_count')).toBe(used.completion - 6);
    expect(rise('request_errors_total')).toBe(0);
    expect(rise('requests_cancelled_total')).toBe(0);
  });

  test('pruning, by policy', async () => {
    let reply: Record<string, Record<string, number>> = {};
    const rise = await rises(async () => {
      const pruning = {
        tokens: { policy: 'lazyllm', prefill_only: true },
        kv: { policy: 'snapkv', keep: 0.5 },
      };
      reply = (await target.post(COMPLETIONS, { ...plain, pruning })).json['pruning'] as typeof reply;
    });
    const policy = 'lazyllm+snapkv';
    const { tokens = {}, kv = {} } = reply;
    const stages = tokens['stages'] as unknown as { kept: number }[];
    expect(rise('pruning_requests_total', { policy })).toBe(1);
    expect(rise('pruning_tokens_seen_total', { policy, family: 'tokens' })).toBe(tokens['seen']);
    expect(rise('pruning_tokens_kept_total', { policy, family: 'tokens' })).toBe(stages.at(-1)?.kept);
    expect(rise('pruning_tokens_seen_total', { policy, family: 'kv' })).toBe(kv['entries_seen']);
    expect(rise('pruning_tokens_kept_total', { policy, family: 'kv' })).toBe(kv['entries_kept']);
    expect(rise('pruning_revived_tokens_total', { policy })).toBe(tokens['revived']);
    expect(rise('pruning_kv_bytes_saved_total', { policy })).toBe(
      (kv['dense_bytes'] ?? 0) - (kv['bytes'] ?? 0),
    );
    expect(rise('time_to_first_token_seconds_count', { policy })).toBe(1);
  });

  test('errors by code, else by type; a client that left', async () => {
    const rise = await rises(async () => {
      await target.post(CHAT, {});
      await target.post(CHAT, { messages, model: 'no-such' });
      await target.request('/v1/no-such');
      const stream = target.open(CHAT, { messages, max_tokens: 4000, ignore_eos: true });
      await stream.until(/"content"/);
      stream.leave();
      await stream.ended;
    });
    expect(rise('request_errors_total', { code: 'invalid_request_error' })).toBe(1);
    expect(rise('request_errors_total', { code: 'model_not_found' })).toBe(1);
    expect(rise('request_errors_total', { code: 'not_found' })).toBe(1);
    expect(rise('requests_cancelled_total')).toBe(1);
    expect(rise('prompt_tokens_total')).toBe(0);
  });
});

test('gauges rise while something runs and return to zero', async () => {
  const stream = target.open(CHAT, { messages, max_tokens: 4000, ignore_eos: true });
  await stream.until(/"content"/);
  const total = async (name: string) => (await target.metrics()).total(`coppice_${name}`);
  for (const name of ['requests_running', 'kv_bytes', 'kv_usage_ratio'])
    await expect.poll(() => total(name), { interval: 20, timeout: 10_000 }).toBeGreaterThan(0);
  stream.leave();
  for (const name of ['requests_running', 'requests_waiting', 'kv_bytes', 'kv_usage_ratio'])
    await expect.poll(() => total(name), { interval: 20, timeout: 10_000 }).toBe(0);
  expect(await total('kv_bytes_limit')).toBeGreaterThan(0);
});
