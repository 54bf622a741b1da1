/** Sequences that run together do not touch each other: every output is the one of the request alone. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import {
  BABYLLAMA,
  countRows,
  EngineRun,
  kvBytes,
  loadModel,
  makeIds,
  makeRequest,
  PRUNED_SHAPES,
  runAlone,
  SLIDING_WINDOW,
  STORIES,
  type RequestOptions,
} from './support/engine.ts';

const LENGTHS = [1, 2, 5, 17, 40, 63, 64, 65, 127, 128, 129, 190];

function mixedRequests(model: Model, count: number, options: RequestOptions = {}) {
  return Array.from({ length: count }, (_, i) => {
    const ids = makeIds(LENGTHS[i % LENGTHS.length]!, model.info.vocabSize, i);
    return makeRequest(ids, { maxTokens: 4 + ((i * 7) % 29), ...options });
  });
}

describe.each([
  ['stories260K', STORIES],
  ['sliding windows', SLIDING_WINDOW],
  ['layers without attention and with fewer heads', PRUNED_SHAPES],
])('%s', (_, dir) => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(dir);
  });

  test('fourteen greedy requests at once, and arriving one by one, equal each alone', async () => {
    const requests = mixedRequests(model, 14);
    const alone = [];
    for (const request of requests) alone.push((await runAlone(model, request)).tokens());
    for (const turnsBetween of [0, 1, 3]) {
      const run = new EngineRun(model, { maxRunning: 11 });
      const together = [];
      for (const request of requests) {
        together.push(run.submit(request));
        for (let turn = 0; turn < turnsBetween; turn++) await run.turn();
      }
      await run.untilIdle();
      expect(together.map((recording) => recording.tokens())).toEqual(alone);
    }
  });
});

describe('sampling', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(STORIES);
  });

  const SAMPLINGS: NonNullable<RequestOptions['sampling']>[] = [
    { temperature: 0.8 },
    { temperature: 0.8, topK: 20 },
    { temperature: 0.8, topP: 0.9 },
    { temperature: 1.5, minP: 0.02, topP: 0.95 },
    { temperature: 0.8, repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: 0.4, topK: 40 },
  ];

  test.each(SAMPLINGS)('%o: the same seed gives the same tokens whatever runs beside', async (sampling) => {
    const request = makeRequest(makeIds(20, 512, 3), { maxTokens: 40, sampling: { ...sampling, seed: 42 } });
    const alone = await runAlone(model, request);
    const run = new EngineRun(model);
    const companions = mixedRequests(model, 9, { sampling: { temperature: 1, seed: null } });
    for (const companion of companions.slice(0, 5)) run.submit(companion);
    await run.turn();
    const beside = run.submit(request);
    for (const companion of companions.slice(5)) {
      await run.turn();
      run.submit(companion);
    }
    await run.untilIdle();
    expect(beside.tokens()).toEqual(alone.tokens());
    const other = await runAlone(model, { ...request, sampling: { ...request.sampling, seed: 43 } });
    expect(other.tokens()).not.toEqual(alone.tokens());
  });

  test('without a seed two runs differ', async () => {
    const request = makeRequest([1], { maxTokens: 40, sampling: { temperature: 1, seed: null } });
    expect((await runAlone(model, request)).tokens()).not.toEqual((await runAlone(model, request)).tokens());
  });

  test('choices differ from each other, and the first one is what n = 1 gives', async () => {
    const sampling = { temperature: 0.8, topP: 0.95, seed: 5 };
    const request = makeRequest(makeIds(30, 512, 8), { maxTokens: 24, sampling });
    const one = await runAlone(model, request);
    const five = await runAlone(model, { ...request, numChoices: 5 });
    const outputs = [0, 1, 2, 3, 4].map((choice) => five.tokens(choice));
    expect(outputs[0]).toEqual(one.tokens());
    expect(new Set(outputs.map(String)).size).toBe(5);
    expect(five.done.usage).toMatchObject({ promptTokens: 30, completionTokens: 5 * 24 });
  });
});

describe('several choices of one prompt', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(BABYLLAMA);
  });
  const sampling = { temperature: 0.8, seed: 11 };

  test('the prompt is computed once and counted once', async () => {
    const counted = countRows(model);
    const run = new EngineRun(counted.model);
    const recording = run.submit(
      makeRequest(makeIds(100, 105, 1), { numChoices: 6, maxTokens: 1, sampling }),
    );
    await run.untilIdle();
    expect(counted.numRows()).toBe(100);
    expect(recording.all('token')).toHaveLength(6);
    expect(run.engine.stats()).toMatchObject({ promptTokens: 100, cachedTokens: 0, generatedTokens: 6 });
  });

  test('the prefix cache makes room for the copies of the prompt', async () => {
    const counted = countRows(model);
    const kvMaxBytes = 6 * kvBytes(model, 64);
    const run = new EngineRun(counted.model, { kvMaxBytes, prefixCacheMaxBytes: kvMaxBytes });
    for (let i = 0; i < 5; i++) {
      run.submit(makeRequest(makeIds(50, 105, 20 + i), { maxTokens: 1, cachePrompt: true }));
      await run.untilIdle();
    }
    expect(run.engine.stats().prefixCacheBytes).toBe(5 * kvBytes(model, 64));
    const before = counted.numRows();
    run.submit(makeRequest(makeIds(62, 105, 1), { numChoices: 4, maxTokens: 2, sampling }));
    await run.untilIdle();
    // The prompt, and one decode step of four.
    expect(counted.numRows() - before).toBe(62 + 4);
  });

  test.each([
    ['one choice at a time', 2, 16],
    ['half of them', 6, 16],
    ['too few that may run', 100, 2],
  ])('with room for %s the output is the same', async (_, numBlocks, maxRunning) => {
    const request = makeRequest(makeIds(50, 105, 4), { numChoices: 6, maxTokens: 60, sampling });
    const free = await runAlone(model, request);
    const run = new EngineRun(model, { kvMaxBytes: numBlocks * kvBytes(model, 64), maxRunning });
    const tight = run.submit(request);
    await run.untilIdle();
    for (let choice = 0; choice < 6; choice++) expect(tight.tokens(choice)).toEqual(free.tokens(choice));
    expect(tight.done.usage).toEqual(free.done.usage);
  });
});
