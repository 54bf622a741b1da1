/** Kept prefixes and scored prompts beside pruning: what is kept for others stays whole, and what is scored is right. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { PruningChoice } from '../../src/policies/index.ts';
import type { Model } from '../../src/runtime/model.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun } from './pruned-drive.ts';
import { EngineRun, makeIds, makeRequest, runAlone, STORIES } from './support/engine.ts';
import { logprobOf } from './support/naive.ts';
import { CASES, choiceOf, choose, policiesOf, withPattern } from './support/policies.ts';

const load = modelLoader();
let model: Model;
beforeAll(async () => {
  model = withPattern(await load(STORIES));
});

const ids = (length: number, seed: number) => makeIds(length, model.info.vocabSize, seed);
const PREFIX = 100;

/** kv policies that a prefix would keep from hearing what they go by. */
const HEARS_ALL_ROWS = new Set(['h2o', 'expected-attention', 'kvzip']);

describe.each(CASES)('$title', (policyCase) => {
  test('starts from a kept prefix where that changes nothing, and leaves it as it is', async () => {
    const run = new EngineRun(model);
    const system = ids(PREFIX, 2);
    const first = run.submit(makeRequest([...system, 7], { maxTokens: 1, cachePrompt: true }));
    await run.untilIdle();
    const { prefixCacheBytes } = run.engine.stats();
    expect(prefixCacheBytes).toBeGreaterThan(0);

    const options = { maxTokens: 10, cachePrompt: true, pruning: choiceOf(model, policyCase) };
    const pruned = run.submit(makeRequest([...system, ...ids(40, 3)], options));
    await run.untilIdle();
    const takes = policyCase.family === 'kv' && !HEARS_ALL_ROWS.has(policyCase.name);
    expect(pruned.done.usage.cachedTokens).toBe(takes ? PREFIX : 0);
    expect(pruned.tokens()).toHaveLength(10);
    const unaided = await runAlone(model, { ...pruned.request, cachePrompt: false });
    expect(pruned.tokens()).toEqual(unaided.tokens());
    expect(pruned.done.pruning?.kv?.entriesKept).toBe(unaided.done.pruning?.kv?.entriesKept);
    expect(pruned.done.pruning?.tokens).toEqual(unaided.done.pruning?.tokens);
    expect(run.engine.stats().prefixCacheBytes, 'a pruned cache is kept for nobody').toBe(prefixCacheBytes);

    const again = run.submit(makeRequest([...system, 7, 8, 9], { maxTokens: 4, cachePrompt: true }));
    await run.untilIdle();
    expect(again.done.usage.cachedTokens).toBe(first.done.usage.promptTokens);
    const cold = await runAlone(model, { ...again.request, cachePrompt: false });
    expect(again.tokens()).toEqual(cold.tokens());
  });
});

test('computes the observation window itself, however much is kept', async () => {
  const run = new EngineRun(model);
  const prompt = ids(120, 4);
  run.submit(makeRequest(prompt, { maxTokens: 1, cachePrompt: true }));
  await run.untilIdle();
  const pruning = choose(model, { kv: { policy: 'snapkv', keep: 0.5, observation_window: 24, recent: 24 } });
  const pruned = run.submit(makeRequest(prompt, { maxTokens: 10, cachePrompt: true, pruning }));
  await run.untilIdle();
  expect(pruned.done.usage.cachedTokens).toBe(prompt.length - 24);
  const unaided = await runAlone(model, { ...pruned.request, cachePrompt: false });
  expect(pruned.tokens()).toEqual(unaided.tokens());
});

/** The rule for a row does not depend on later rows, so that it is the same for a row of the prompt and a decoded one. */
const ROW_LOCAL = [
  { kv: { policy: 'duo-attention', sparsity: 0.5, sink: 4, recent: 16 } },
  { layers: { policy: 'attention-drop', drop: [0] } },
  { layers: { policy: 'finercut', attention: [1], mlp: [0] } },
  { layers: { policy: 'head-mask', heads: [[0, 1]] } },
  {
    kv: { policy: 'duo-attention', sparsity: 0.5, sink: 4, recent: 16 },
    layers: { policy: 'attention-drop', drop: [2] },
  },
];

async function scored(pruning: PruningChoice | null, promptIds: readonly number[], maxTokens = 0) {
  const recording = await runAlone(model, makeRequest(promptIds, { maxTokens, promptLogprobs: 2, pruning }));
  expect(recording.tokens()).toHaveLength(maxTokens);
  const { logprobs } = recording.all('prompt_logprobs')[0]!;
  expect(logprobs).toHaveLength(promptIds.length);
  expect(logprobs[0]).toBeNull();
  return logprobs.slice(1).map((item) => item!.logprob);
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  actual.forEach((value, i) => {
    expect(value, `token ${i + 1}`).toBeCloseTo(expected[i]!, 3);
  });
}

test.each(ROW_LOCAL)('scores a prompt as it is decoded: $kv $layers', async (value) => {
  const promptIds = ids(120, 6);
  const choice = choose(model, value);
  const run = new PrunedRun(model, policiesOf(model, choice));
  let [logits] = await run.prefill(promptIds.slice(0, 1));
  const expected: number[] = [];
  for (const id of promptIds.slice(1)) {
    expected.push(logprobOf(logits!, id));
    logits = await run.decode(id);
  }
  run.cache.free();
  expectClose(await scored(choice, promptIds), expected);
  expectClose(await scored(choice, promptIds, 3), expected);
});

// Entries go when a layer is through with all rows, and blocks are chosen from the first decoded token on.
test.each(CASES.filter(({ family, name }) => family === 'kv' && name !== 'duo-attention'))(
  'scores a prompt as without pruning: $title',
  async (policyCase) => {
    const promptIds = ids(130, 6);
    expectClose(await scored(choiceOf(model, policyCase), promptIds, 2), await scored(null, promptIds, 2));
  },
);
