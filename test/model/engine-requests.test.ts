/** One request's life: how it ends, what it is told, and what stops, cancels and failures leave behind. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import {
  BABYLLAMA,
  EngineRun,
  loadModel,
  makeIds,
  makeRequest,
  type Recording,
  runAlone,
} from './support/engine.ts';
import { logprobOf, runNaively } from './support/naive.ts';

let model: Model;
/** A prompt, its greedy completion of 40 tokens, and of those the first that is no repetition of an earlier one. */
const prompt = makeIds(30, 105, 6);
let completion: number[];
let stopIndex: number;
let stopId: number;
beforeAll(async () => {
  model = await loadModel(BABYLLAMA);
  completion = (await runAlone(model, makeRequest(prompt, { maxTokens: 40 }))).tokens();
  stopIndex = completion.findIndex((id, i) => i >= 5 && completion.indexOf(id) === i);
  stopId = completion[stopIndex]!;
});

describe('the end of a choice', () => {
  test('a stop id is counted and named, but is no token', async () => {
    expect(stopIndex).toBeGreaterThan(0);
    const recording = await runAlone(
      model,
      makeRequest(prompt, { maxTokens: 40, stopTokenIds: [999, stopId] }),
    );
    expect(recording.tokens()).toEqual(completion.slice(0, stopIndex));
    expect(recording.finish()).toMatchObject({ reason: 'stop', stopTokenId: stopId });
    expect(recording.done.usage.completionTokens).toBe(stopIndex + 1);
  });

  test('a stop id as the last token that is allowed is a stop', async () => {
    const request = makeRequest(prompt, { maxTokens: stopIndex + 1, stopTokenIds: [stopId] });
    expect((await runAlone(model, request)).finish()).toMatchObject({ reason: 'stop' });
  });

  test('without stop ids the limit ends it', async () => {
    for (const maxTokens of [1, 2, 40]) {
      const recording = await runAlone(model, makeRequest(prompt, { maxTokens }));
      expect(recording.tokens()).toEqual(completion.slice(0, maxTokens));
      expect(recording.finish()).toMatchObject({ reason: 'length', stopTokenId: null });
    }
  });

  test('no stop id is sampled before the minimum', async () => {
    const minTokens = stopIndex + 4;
    const request = makeRequest(prompt, { maxTokens: 40, minTokens, stopTokenIds: [stopId] });
    const recording = await runAlone(model, request);
    expect(recording.tokens().length).toBeGreaterThanOrEqual(minTokens);
    expect(recording.tokens().slice(0, stopIndex)).toEqual(completion.slice(0, stopIndex));
    expect(recording.tokens()).not.toContain(stopId);
  });

  test('a bias forces and forbids tokens', async () => {
    const biased = (logitBias: [number, number][]) =>
      runAlone(model, makeRequest(prompt, { maxTokens: 12, sampling: { logitBias } }));
    expect((await biased([[77, 1000]])).tokens()).toEqual(Array(12).fill(77));
    const without = (await biased([[completion[0]!, -1000]])).tokens();
    expect(without).not.toContain(completion[0]);
  });
});

test('log-probabilities of chosen tokens are those of the model alone, before any bias', async () => {
  const sampling = {
    temperature: 1.3,
    logprobs: 5,
    seed: 2,
    frequencyPenalty: 1,
    logitBias: [[50, 3] as const],
  };
  const recording = await runAlone(model, makeRequest(prompt, { maxTokens: 20, sampling }));
  const tokens = recording.tokens();
  const naive = await runNaively(model, [...prompt, ...tokens]);
  for (const [i, { logprobs, tokenId }] of recording.all('token').entries()) {
    const logits = naive.logits[prompt.length - 1 + i]!;
    expect(logprobs?.logprob).toBeCloseTo(logprobOf(logits, tokenId), 3);
    expect(logprobs?.top).toHaveLength(5);
    const best = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!);
    expect(logprobs?.top[0]?.[0]).toBe(best[0]);
    for (const [id, logprob] of logprobs?.top ?? []) expect(logprob).toBeCloseTo(logprobOf(logits, id), 3);
  }
});

/** Brings a request of `numChoices` choices into a state, beside another one that runs. */
const STATES: Record<string, (numChoices: number) => Promise<{ run: EngineRun; subject: Recording }>> = {
  'just submitted': (numChoices) => {
    const run = new EngineRun(model);
    run.submit(makeRequest(prompt, { maxTokens: 30 }));
    return Promise.resolve({ run, subject: run.submit(makeRequest(prompt, { numChoices, maxTokens: 20 })) });
  },
  queued: async (numChoices) => {
    const run = new EngineRun(model, { maxRunning: 1 });
    run.submit(makeRequest(prompt, { maxTokens: 30 }));
    const subject = run.submit(makeRequest(prompt, { numChoices, maxTokens: 20 }));
    for (let turn = 0; turn < 4; turn++) await run.turn();
    expect(run.engine.stats()).toMatchObject({ running: 1, waiting: 1 });
    return { run, subject };
  },
  prefilling: async (numChoices) => {
    const run = new EngineRun(model);
    const other = run.submit(makeRequest(prompt, { maxTokens: 30 }));
    while (other.tokens().length < 2) await run.turn();
    const long = [...makeIds(170, 105, 1), ...prompt];
    const subject = run.submit(makeRequest(long, { numChoices, maxTokens: 20 }));
    await run.turn();
    expect(run.engine.stats().running).toBe(2);
    expect(subject.events).toEqual([{ type: 'started', cachedTokens: 0 }]);
    return { run, subject };
  },
  decoding: async (numChoices) => {
    const run = new EngineRun(model);
    run.submit(makeRequest(prompt, { maxTokens: 30 }));
    const subject = run.submit(makeRequest(prompt, { numChoices, maxTokens: 20 }));
    while (subject.tokens().length < 3) await run.turn();
    return { run, subject };
  },
};

describe.each(Object.entries(STATES))('%s', (_, prepare) => {
  test('a cancelled request hears nothing more and holds nothing', async () => {
    const { run, subject } = await prepare(3);
    run.cancel(subject);
    run.cancel(subject);
    run.engine.stopChoice(subject.request.id, 0);
    await run.turn();
    expect(run.engine.stats()).toMatchObject({ running: 1, waiting: 0 });
    await run.untilIdle();
    expect(run.recordings[0]?.tokens()).toEqual(completion.slice(0, 30));
  });

  test('stopping the only choice ends the request', async () => {
    const { run, subject } = await prepare(1);
    const numTokens = subject.tokens().length;
    run.engine.stopChoice(subject.request.id, 0);
    await run.turn();
    expect(subject.tokens()).toHaveLength(numTokens);
    expect(subject.finish()).toMatchObject({ reason: 'stop', stopTokenId: null });
    expect(subject.done.usage.completionTokens).toBe(numTokens);
    await run.untilIdle();
  });

  test.each([0, 1, 2])('stopping choice %i lets the others go on', async (stopped) => {
    const { run, subject } = await prepare(3);
    const numTokens = subject.tokens(stopped).length;
    run.engine.stopChoice(subject.request.id, stopped);
    run.engine.stopChoice(subject.request.id, stopped);
    await run.untilIdle();
    const alone = await runAlone(model, { ...subject.request, numChoices: 1 });
    for (const choice of [0, 1, 2]) {
      const expected = choice === stopped ? alone.tokens().slice(0, numTokens) : alone.tokens();
      expect(subject.tokens(choice)).toEqual(expected);
      expect(subject.finish(choice)?.reason).toBe(choice === stopped ? 'stop' : 'length');
    }
  });

  test('stopping all choices, one a turn', async () => {
    const { run, subject } = await prepare(3);
    for (const choice of [0, 1, 2]) {
      run.engine.stopChoice(subject.request.id, choice);
      await run.turn();
    }
    expect(subject.hasEnded).toBe(true);
    await run.untilIdle();
  });
});

test('unknown requests and choices are nobody', async () => {
  const run = new EngineRun(model);
  const recording = run.submit(makeRequest(prompt, { maxTokens: 4 }));
  run.engine.cancel('nobody');
  run.engine.stopChoice('nobody', 0);
  run.engine.stopChoice(recording.request.id, 7);
  run.engine.stopChoice(recording.request.id, -1);
  await run.untilIdle();
  expect(recording.tokens()).toEqual(completion.slice(0, 4));
  run.engine.cancel(recording.request.id);
  run.engine.stopChoice(recording.request.id, 0);
  await run.untilIdle();
});

test('an id is free again once its request has ended or been cancelled', async () => {
  const run = new EngineRun(model);
  const request = makeRequest(prompt, { maxTokens: 4 });
  run.cancel(run.submit(request));
  const second = run.submit(request);
  await run.untilIdle();
  const third = run.submit(request);
  await run.untilIdle();
  expect(second.tokens()).toEqual(completion.slice(0, 4));
  expect(third.tokens()).toEqual(completion.slice(0, 4));
});

describe('numbers that are none', () => {
  /** Its embedding is NaN, and so is everything computed from it. */
  let poison: number;
  let poisoned: Model;
  beforeAll(() => {
    poison = stopId;
    const embedding = {
      rows(tokenIds: ArrayLike<number>) {
        const rows = model.embedding.rows(tokenIds);
        const width = rows.length / tokenIds.length;
        for (let i = 0; i < tokenIds.length; i++)
          if (tokenIds[i] === poison) rows.fill(NaN, i * width, (i + 1) * width);
        return rows;
      },
    };
    poisoned = Object.create(model, { embedding: { value: embedding } }) as Model;
  });

  const clean = () => makeIds(30, 105, 6).map((id) => (id === poison ? 4 : id));

  test.each([
    ['in a prompt', { numChoices: 1 }],
    ['in a prompt for several choices', { numChoices: 4 }],
    ['in a prompt that is scored', { promptLogprobs: 2 }],
    ['in a prompt that is only scored', { promptLogprobs: 0, maxTokens: 0 }],
  ])('%s fail that request alone', async (_, options) => {
    const run = new EngineRun(poisoned);
    const other = run.submit(makeRequest(clean(), { maxTokens: stopIndex }));
    const bad = run.submit(makeRequest([5, 6, poison, 7], { cachePrompt: true, ...options }));
    const later = run.submit(makeRequest([5, 6, 7], { maxTokens: 1 }));
    await run.untilIdle();
    expect(bad.events).toMatchObject([{ type: 'started' }, { type: 'error', code: 'internal' }]);
    expect(other.done).toBeDefined();
    expect(later.done).toBeDefined();
    expect(run.engine.stats().prefixCacheBytes, 'nothing of it is kept').toBe(0);
  });

  test.each([1, 12])('while decoding %i choices fail that request alone', async (numChoices) => {
    const run = new EngineRun(poisoned);
    const bad = run.submit(makeRequest(prompt, { numChoices, maxTokens: 40, cachePrompt: true }));
    const other = run.submit(makeRequest(clean(), { maxTokens: 3 }));
    await run.untilIdle();
    expect(bad.events.at(-1)).toMatchObject({ type: 'error', code: 'internal' });
    // The poisonous token is sampled, and turns what comes after it into NaN.
    expect(bad.tokens()).toEqual(completion.slice(0, stopIndex + 1));
    expect(other.done).toBeDefined();
    expect(run.engine.stats().prefixCacheBytes).toBe(0);
  });
});
