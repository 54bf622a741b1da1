/** Memory: preemption, refusals, and prefixes that are computed once. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import {
  BABYLLAMA,
  EngineRun,
  kvBytes,
  loadModel,
  makeIds,
  makeRequest,
  PRUNED_SHAPES,
  runAlone,
  SLIDING_WINDOW,
} from './support/engine.ts';

let model: Model;
/** What a sequence of up to 64 entries occupies; it grows by as much for the next 64. */
let block: number;
beforeAll(async () => {
  model = await loadModel(BABYLLAMA);
  block = kvBytes(model, 64);
});

const ids = (length: number, seed: number) => makeIds(length, model.info.vocabSize, seed);

describe('preemption', () => {
  test.each([
    { numBlocks: 2, cachePrompt: false },
    { numBlocks: 3, cachePrompt: true },
    { numBlocks: 5, cachePrompt: false },
    { numBlocks: 7, cachePrompt: true },
  ])(
    'with $numBlocks blocks for 8 growing sequences, outputs stay the same',
    async ({ numBlocks, cachePrompt }) => {
      const requests = [50, 60, 20, 64, 5, 63, 40, 30].map((length, i) =>
        makeRequest(ids(length, i), { maxTokens: 128 - length - (i % 3), cachePrompt }),
      );
      const run = new EngineRun(model, { kvMaxBytes: numBlocks * block, prefixCacheMaxBytes: 2 * block });
      const together = requests.map((request) => run.submit(request));
      await run.untilIdle();
      expect(run.engine.stats().preemptions).toBeGreaterThan(0);
      for (const [i, request] of requests.entries())
        expect(together[i]?.tokens(), request.id).toEqual((await runAlone(model, request)).tokens());
    },
  );

  test('takes the prompt that is being computed, too', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 5 * block });
    const older = run.submit(makeRequest(ids(62, 1), { maxTokens: 10 }));
    const newer = run.submit(makeRequest(ids(250, 2), { maxTokens: 4 }));
    await run.untilIdle();
    expect(run.engine.stats().preemptions).toBeGreaterThan(0);
    for (const recording of [older, newer])
      expect(recording.tokens()).toEqual((await runAlone(model, recording.request)).tokens());
  });

  test('spares the urgent: the later arrival with the lower number ends first', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 3 * block });
    const idle = run.submit(makeRequest(ids(60, 1), { maxTokens: 60, priority: 5 }));
    await run.turn();
    const urgent = run.submit(makeRequest(ids(60, 2), { maxTokens: 60, priority: -5 }));
    while (!urgent.hasEnded) await run.turn();
    expect(idle.hasEnded).toBe(false);
    expect(run.engine.stats().preemptions).toBeGreaterThan(0);
    await run.untilIdle();
  });

  test('of sampled sequences changes no random number', async () => {
    const sampling = { temperature: 1, topP: 0.95, frequencyPenalty: 0.3, seed: 3 };
    const requests = [1, 2, 3, 4].map((seed) => makeRequest(ids(40, seed), { maxTokens: 80, sampling }));
    const run = new EngineRun(model, { kvMaxBytes: 4 * block });
    const together = requests.map((request) => run.submit(request));
    await run.untilIdle();
    expect(run.engine.stats().preemptions).toBeGreaterThan(0);
    for (const [i, request] of requests.entries())
      expect(together[i]?.tokens()).toEqual((await runAlone(model, request)).tokens());
  });
});

describe('refusals', () => {
  test('what can never fit hears so at once, and what just fits runs', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 2 * block, prefixCacheMaxBytes: block });
    const beside = run.submit(makeRequest(ids(30, 1), { maxTokens: 30, cachePrompt: true }));
    await run.turn();
    const tooLarge = run.submit(makeRequest(ids(100, 1), { maxTokens: 29 }));
    const fits = run.submit(makeRequest(ids(100, 1), { maxTokens: 28 }));
    await run.turn();
    expect(tooLarge.events).toEqual([
      {
        type: 'error',
        code: 'kv_memory_exceeded',
        message: expect.stringMatching(/expected .* got|expected .* needs/) as string,
        param: null,
      },
    ]);
    await run.untilIdle();
    expect(beside.tokens()).toHaveLength(30);
    expect(fits.tokens()).toHaveLength(28);
  });

  test('the context length is used to its end and not beyond', async () => {
    const run = new EngineRun(model);
    const full = run.submit(makeRequest(ids(200, 1), { maxTokens: 56 }));
    const tooLong = run.submit(makeRequest(ids(200, 1), { maxTokens: 57 }));
    const onlyPrompt = run.submit(makeRequest(ids(256, 1), { maxTokens: 0, promptLogprobs: 0 }));
    await run.untilIdle();
    expect(full.tokens()).toHaveLength(56);
    expect(tooLong.events).toMatchObject([{ type: 'error', code: 'context_length_exceeded' }]);
    expect(onlyPrompt.all('prompt_logprobs')[0]?.logprobs).toHaveLength(256);
  });

  test.each([
    ['an empty prompt', [], {}],
    ['a token beyond the vocabulary', [1, 105], {}],
    ['a negative token', [-1, 4], {}],
    ['a bias beyond the vocabulary', [1], { sampling: { logitBias: [[105, 1] as const] } }],
  ])('%s ends the request, not the engine', async (_, prompt, options) => {
    const run = new EngineRun(model);
    const good = run.submit(makeRequest(ids(10, 1)));
    await run.turn();
    const bad = run.submit(makeRequest(prompt, options));
    await run.untilIdle();
    expect(bad.events).toMatchObject([{ type: 'error' }]);
    expect(good.tokens()).toHaveLength(8);
  });
});

describe.each([
  ['babyllama', BABYLLAMA],
  ['sliding windows', SLIDING_WINDOW],
  ['layers without attention and with fewer heads', PRUNED_SHAPES],
])('prefix reuse, %s', (_, dir) => {
  let own: Model;
  beforeAll(async () => {
    own = await loadModel(dir);
  });
  const cached = { cachePrompt: true, maxTokens: 12 };

  test('a conversation computes only what is new, turn after turn', async () => {
    const run = new EngineRun(own);
    let prompt = makeIds(40, own.info.vocabSize, 1);
    let numComputed = 0;
    for (let turn = 0; turn < 4; turn++) {
      const recording = run.submit(makeRequest(prompt, cached));
      await run.untilIdle();
      expect(recording.done.usage.cachedTokens).toBe(numComputed);
      const cold = await runAlone(own, makeRequest(prompt, { maxTokens: 12 }));
      expect(recording.tokens()).toEqual(cold.tokens());
      // The last token of a completion was never an input.
      numComputed = prompt.length + recording.tokens().length - 1;
      prompt = [...prompt, ...recording.tokens(), ...makeIds(20, own.info.vocabSize, 10 + turn)];
    }
    expect(run.engine.stats().cachedTokens).toBeGreaterThan(100);
  });

  test('one system prompt for several users, at the same time', async () => {
    const run = new EngineRun(own);
    const system = makeIds(70, own.info.vocabSize, 2);
    run.submit(makeRequest([...system, 29], { ...cached, maxTokens: 1 }));
    await run.untilIdle();
    const users = [30, 31, 32, 33, 34].map((seed) =>
      run.submit(makeRequest([...system, seed, ...makeIds(9, own.info.vocabSize, seed)], cached)),
    );
    await run.untilIdle();
    for (const user of users) {
      expect(user.done.usage.cachedTokens).toBe(70);
      const cold = await runAlone(own, { ...user.request, cachePrompt: false });
      expect(user.tokens()).toEqual(cold.tokens());
    }
    expect(run.engine.stats()).toMatchObject({ cachedTokens: 350, promptTokens: 71 + 5 * 80 });
  });

  test('several that continue one conversation at once all start from it', async () => {
    const run = new EngineRun(model);
    const first = run.submit(makeRequest(ids(60, 1), { ...cached, maxTokens: 5 }));
    await run.untilIdle();
    const said = [...ids(60, 1), ...first.tokens()];
    const next = [2, 3, 4].map((seed) => run.submit(makeRequest([...said, ...ids(8, seed)], cached)));
    await run.untilIdle();
    for (const recording of next) {
      expect(recording.done.usage.cachedTokens).toBe(64);
      const cold = await runAlone(model, { ...recording.request, cachePrompt: false });
      expect(recording.tokens()).toEqual(cold.tokens());
    }
  });

  test('who comes while another computes starts from what that has computed, if both may share', async () => {
    const run = new EngineRun(model);
    const running = run.submit(makeRequest(ids(100, 1), { ...cached, maxTokens: 20 }));
    while (running.tokens().length < 3) await run.turn();
    const shares = run.submit(makeRequest([...ids(100, 1), ...ids(5, 2)], { ...cached, maxTokens: 4 }));
    const refuses = run.submit(
      makeRequest([...ids(100, 1), ...ids(5, 3)], { maxTokens: 4, cachePrompt: false }),
    );
    await run.untilIdle();
    expect([shares, refuses].map(({ done }) => done.usage.cachedTokens)).toEqual([100, 0]);
    for (const recording of [running, shares]) {
      const cold = await runAlone(model, { ...recording.request, cachePrompt: false });
      expect(recording.tokens()).toEqual(cold.tokens());
    }
  });

  test('the same prompt again computes its last token', async () => {
    const run = new EngineRun(own);
    const request = makeRequest(makeIds(65, own.info.vocabSize, 3), { ...cached, numChoices: 2 });
    const first = run.submit(request);
    await run.untilIdle();
    const second = run.submit({ ...request, id: 'again' });
    await run.untilIdle();
    expect(second.done.usage.cachedTokens).toBe(64);
    for (const choice of [0, 1]) expect(second.tokens(choice)).toEqual(first.tokens(choice));
  });
});

describe('the prefix cache', () => {
  test('is neither read nor written by a request that says so', async () => {
    const run = new EngineRun(model);
    const request = makeRequest(ids(50, 1), { cachePrompt: true });
    run.submit({ ...request, cachePrompt: false });
    await run.untilIdle();
    expect(run.engine.stats().prefixCacheBytes).toBe(0);
    run.submit({ ...request, id: 'writes' });
    await run.untilIdle();
    const { prefixCacheBytes } = run.engine.stats();
    expect(prefixCacheBytes).toBe(block);
    const blind = run.submit({ ...request, id: 'blind', cachePrompt: false });
    await run.untilIdle();
    expect(blind.done.usage.cachedTokens).toBe(0);
    expect(run.engine.stats().prefixCacheBytes).toBe(prefixCacheBytes);
  });

  test('keeps what a cancelled or stopped request computed, but nothing half computed', async () => {
    const run = new EngineRun(model);
    const prompt = ids(50, 1);
    const cancelled = run.submit(makeRequest(prompt, { maxTokens: 50, cachePrompt: true }));
    while (cancelled.tokens().length < 10) await run.turn();
    run.cancel(cancelled);
    const half = run.submit(makeRequest(ids(250, 7), { maxTokens: 1, cachePrompt: true }));
    await run.turn();
    run.cancel(half);
    await run.untilIdle();
    expect(run.engine.stats().prefixCacheBytes).toBe(block);
    const next = run.submit(makeRequest([...prompt, ...cancelled.tokens(), 5], { cachePrompt: true }));
    const again = run.submit(makeRequest(half.request.promptIds, { cachePrompt: true, maxTokens: 2 }));
    await run.untilIdle();
    expect(next.done.usage.cachedTokens).toBe(50 + cancelled.tokens().length - 1);
    expect(again.done.usage.cachedTokens).toBe(0);
    for (const recording of [next, again]) {
      const cold = await runAlone(model, { ...recording.request, cachePrompt: false });
      expect(recording.tokens()).toEqual(cold.tokens());
    }
  });

  test('gives way to running sequences, oldest entry first', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 4 * block, prefixCacheMaxBytes: 4 * block });
    const prompts = [1, 2, 3, 4].map((seed) => ids(50, seed));
    for (const prompt of prompts) {
      run.submit(makeRequest(prompt, { maxTokens: 2, cachePrompt: true }));
      await run.untilIdle();
    }
    expect(run.engine.stats().prefixCacheBytes).toBe(4 * block);
    const large = run.submit(makeRequest(ids(100, 9), { maxTokens: 80 }));
    await run.untilIdle();
    expect(large.tokens()).toHaveLength(80);
    expect(run.engine.stats()).toMatchObject({ preemptions: 0, prefixCacheBytes: block });
    const newest = run.submit(makeRequest(prompts[3]!, { cachePrompt: true }));
    await run.untilIdle();
    const oldest = run.submit(makeRequest(prompts[0]!, { cachePrompt: true }));
    await run.untilIdle();
    expect(newest.done.usage.cachedTokens).toBe(49);
    expect(oldest.done.usage.cachedTokens).toBe(0);
  });

  test('stays within its own share', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 100 * block, prefixCacheMaxBytes: 3 * block });
    for (let seed = 0; seed < 8; seed++) run.submit(makeRequest(ids(40, seed), { cachePrompt: true }));
    await run.untilIdle();
    expect(run.engine.stats().prefixCacheBytes).toBe(3 * block);
  });
});
