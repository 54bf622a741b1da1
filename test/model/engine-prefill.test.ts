/** Prompts: across tiles, lanes and passes, beside other streams, scored, and reported while they are computed. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import type { TokenLogprobs } from '../../src/runtime/protocol.ts';
import {
  BABYLLAMA,
  EngineRun,
  kvBytes,
  loadModel,
  makeIds,
  makeRequest,
  PRUNED_SHAPES,
  RECALL,
  runAlone,
  SLIDING_WINDOW,
  STORIES,
} from './support/engine.ts';
import { logprobOf, type NaiveRun, runNaively } from './support/naive.ts';

describe('long prompts beside other streams', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(RECALL);
  });

  test('a stream goes on, turn by turn, while 3000 tokens are computed', async () => {
    const run = new EngineRun(model);
    const stream = run.submit(makeRequest(makeIds(20, 1536, 1), { maxTokens: 2000 }));
    while (stream.tokens().length < 3) await run.turn();
    const long = run.submit(makeRequest(makeIds(3000, 1536, 2), { maxTokens: 2 }));
    let numTurns = 0;
    let silentTurns = 0;
    while (!long.hasEnded) {
      const before = stream.tokens().length;
      await run.turn();
      numTurns++;
      silentTurns = stream.tokens().length === before ? silentTurns + 1 : 0;
      expect(silentTurns).toBeLessThanOrEqual(1);
    }
    // 24 tiles through 6 layers: a prompt that ran in one go would take two turns.
    expect(numTurns).toBeGreaterThan(20);
    run.cancel(stream);
    await run.untilIdle();
  });

  test('a short prompt that arrives meanwhile does not wait for the long one', async () => {
    const run = new EngineRun(model);
    const long = run.submit(makeRequest(makeIds(3000, 1536, 2), { maxTokens: 1 }));
    for (let turn = 0; turn < 3; turn++) await run.turn();
    const short = run.submit(makeRequest(makeIds(30, 1536, 3), { maxTokens: 1 }));
    while (!short.hasEnded) await run.turn();
    expect(long.hasEnded).toBe(false);
    run.cancel(long);
    await run.untilIdle();
  });
});

describe.each([
  ['sliding windows', SLIDING_WINDOW],
  ['layers without attention and with fewer heads', PRUNED_SHAPES],
])('prompts longer than a pass, %s', (_, dir) => {
  const ids = makeIds(2600, 320, 9);
  let model: Model;
  let naive: NaiveRun;
  beforeAll(async () => {
    model = await loadModel(dir, { max_position_embeddings: 4096 });
    naive = await runNaively(model, ids);
  });

  test.each([1, 2, 128, 129, 1023, 1024, 1025, 1026, 1153, 2048, 2049, 2600])(
    '%i tokens equal one token after the other',
    async (length) => {
      const prompt = ids.slice(0, length);
      const request = makeRequest(prompt, { maxTokens: 3, sampling: { logprobs: 3 }, reportProgress: true });
      const recording = await runAlone(model, request);
      expect(recording.tokens()).toEqual(await naive.continue(length, 3));
      expectLogprobs(recording.all('token')[0]?.logprobs, naive.logits[length - 1]!, recording.tokens()[0]!);
      expect(recording.all('progress').at(-1)).toMatchObject({ total: length, processed: length });
      expect(recording.done.timings.decodeMs).toBeGreaterThan(0);
    },
  );

  test.each([1024, 1025, 2049])('several choices of %i tokens', async (length) => {
    const request = makeRequest(ids.slice(0, length), { maxTokens: 2, numChoices: 3 });
    const recording = await runAlone(model, request);
    const expected = await naive.continue(length, 2);
    for (let choice = 0; choice < 3; choice++) expect(recording.tokens(choice)).toEqual(expected);
  });

  test('a prefix that leaves one token more than a lane', async () => {
    const run = new EngineRun(model);
    run.submit(makeRequest(ids.slice(0, 100), { maxTokens: 1, cachePrompt: true }));
    await run.untilIdle();
    const prompt = ids.slice(0, 100 + 1025);
    const second = run.submit(makeRequest(prompt, { maxTokens: 3, numChoices: 2, cachePrompt: true }));
    await run.untilIdle();
    expect(second.done.usage.cachedTokens).toBe(100);
    expect(second.tokens(1)).toEqual(await naive.continue(prompt.length, 3));
  });

  test('several of them together', async () => {
    const run = new EngineRun(model);
    const lengths = [1025, 700, 2600, 2049, 5];
    const all = lengths.map((length) => run.submit(makeRequest(ids.slice(0, length), { maxTokens: 4 })));
    await run.untilIdle();
    for (const [i, length] of lengths.entries())
      expect(all[i]?.tokens(), `${length} tokens`).toEqual(await naive.continue(length, 4));
  });

  test.each([1, 2, 33, 129, 1024, 1025, 2600])('every token of %i is scored', async (length) => {
    const prompt = ids.slice(0, length);
    const recording = await runAlone(model, makeRequest(prompt, { maxTokens: 2, promptLogprobs: 2 }));
    const [scores, ...more] = recording.all('prompt_logprobs');
    expect(more).toHaveLength(0);
    expect(scores?.logprobs).toHaveLength(length);
    expect(scores?.logprobs[0]).toBeNull();
    for (let i = 1; i < length; i++) expectLogprobs(scores?.logprobs[i], naive.logits[i - 1]!, prompt[i]!);
    expect(recording.tokens()).toEqual(await naive.continue(length, 2));
  });
});

const TOLERANCE = 2e-3;

function expectLogprobs(
  actual: TokenLogprobs | null | undefined,
  logits: ArrayLike<number>,
  id: number,
): void {
  if (actual == null) throw new Error('no log-probabilities');
  expect(Math.abs(actual.logprob - logprobOf(logits, id))).toBeLessThan(TOLERANCE);
  let previous = 0;
  for (const [other, logprob] of actual.top) {
    expect(Math.abs(logprob - logprobOf(logits, other))).toBeLessThan(TOLERANCE);
    expect(logprob).toBeLessThanOrEqual(previous);
    previous = logprob;
  }
}

describe('scoring a prompt', () => {
  interface Expected {
    cases: { input_ids: number[]; last4_logits: number[][] }[];
  }
  const readExpected = (dir: string) =>
    JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as Expected;

  test.each([STORIES, BABYLLAMA, SLIDING_WINDOW, PRUNED_SHAPES])(
    'agrees with the reference of %s',
    async (dir) => {
      const model = await loadModel(dir);
      for (const { input_ids: ids, last4_logits: rows } of readExpected(dir).cases) {
        const request = makeRequest(ids, { maxTokens: 0, promptLogprobs: 4 });
        const recording = await runAlone(model, request);
        const scores = recording.all('prompt_logprobs')[0]?.logprobs ?? [];
        // Row i of the last four predicts the token after it; the last row predicts the completion.
        const last = rows.slice(0, -1).slice(-(ids.length - 1));
        for (const [i, logits] of last.entries()) {
          const position = ids.length - last.length + i;
          expectLogprobs(scores[position], logits, ids[position]!);
        }
      }
    },
  );

  test('with no token wanted, nothing is sampled', async () => {
    const model = await loadModel(BABYLLAMA);
    const request = makeRequest(makeIds(40, 105, 1), { maxTokens: 0, promptLogprobs: 0, numChoices: 2 });
    const recording = await runAlone(model, request);
    expect(recording.events.map((event) => event.type)).toEqual([
      'started',
      'prompt_logprobs',
      'finished',
      'finished',
      'done',
    ]);
    expect(recording.finish()).toMatchObject({ reason: 'length', stopTokenId: null });
    expect(recording.done.usage).toEqual({ promptTokens: 40, cachedTokens: 0, completionTokens: 0 });
  });

  test('does not use the prefix cache, whose entries have no scores', async () => {
    const model = await loadModel(BABYLLAMA);
    const request = makeRequest(makeIds(70, 105, 1), { promptLogprobs: 1, cachePrompt: true });
    const run = new EngineRun(model);
    const first = run.submit(request);
    await run.untilIdle();
    expect(run.engine.stats().prefixCacheBytes).toBeGreaterThan(0);
    const second = run.submit({ ...request, id: 'again' });
    await run.untilIdle();
    expect(second.done.usage.cachedTokens).toBe(0);
    expect(second.all('prompt_logprobs')).toEqual(first.all('prompt_logprobs'));
    expect(second.all('prompt_logprobs')[0]?.logprobs).toHaveLength(70);
  });

  test('goes on in the right place when its sequence is preempted half way', async () => {
    const model = await loadModel(BABYLLAMA);
    const scored = makeRequest(makeIds(250, 105, 1), {
      promptLogprobs: 1,
      maxTokens: 2,
      reportProgress: true,
    });
    const alone = await runAlone(model, scored);
    const run = new EngineRun(model, { kvMaxBytes: kvBytes(model, 256) + kvBytes(model, 64) });
    const older = run.submit(makeRequest(makeIds(62, 105, 2), { maxTokens: 8 }));
    const preempted = run.submit(scored);
    await run.untilIdle();
    expect(older.tokens()).toHaveLength(8);
    expect(run.engine.stats().preemptions).toBeGreaterThan(0);
    expect(preempted.tokens()).toEqual(alone.tokens());
    expect(preempted.all('prompt_logprobs')).toEqual(alone.all('prompt_logprobs'));
  });
});

test('progress counts what the prefix cache gave, rises, and ends at the total', async () => {
  const model = await loadModel(RECALL);
  const run = new EngineRun(model);
  const ids = makeIds(1500, 1536, 4);
  run.submit(makeRequest(ids.slice(0, 300), { maxTokens: 1, cachePrompt: true }));
  await run.untilIdle();
  const recording = run.submit(makeRequest(ids, { maxTokens: 1, cachePrompt: true, reportProgress: true }));
  await run.untilIdle();
  const progress = recording.all('progress');
  expect(progress.length).toBeGreaterThan(5);
  for (const [i, event] of progress.entries()) {
    expect(event).toMatchObject({ total: 1500, cached: 300 });
    expect(event.processed).toBeGreaterThanOrEqual(300);
    expect(event.timeMs).toBeGreaterThanOrEqual(progress[i - 1]?.timeMs ?? 0);
  }
  expect(progress.at(-1)?.processed).toBe(1500);
  const kinds = recording.events.map((event) => event.type);
  expect(kinds.lastIndexOf('progress')).toBeLessThan(kinds.indexOf('token'));
});
