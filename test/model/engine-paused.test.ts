/** Requests whose readers fall behind: they stop, make way for others, and go on as if nothing had been. */
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import { modelLoader } from './fixture.ts';
import {
  BABYLLAMA,
  countRows,
  EngineRun,
  kvBytes,
  loadModel,
  makeIds,
  makeRequest,
  type Recording,
  runAlone,
  STORIES,
} from './support/engine.ts';
import { choiceOf, isAccepted, LAST_OF_EACH, withPattern } from './support/policies.ts';

const load = modelLoader();
let model: Model;
let block: number;
beforeAll(async () => {
  model = await loadModel(BABYLLAMA);
  block = kvBytes(model, 64);
});

const ids = (length: number, seed: number) => makeIds(length, model.info.vocabSize, seed);

/** Runs until every choice of a recording has said so many tokens, then pauses it. */
async function pauseAfter(run: EngineRun, recording: Recording, numTokens: number): Promise<void> {
  while (recording.tokens().length < numTokens) await run.turn();
  run.engine.pause(recording.request.id);
  await run.turn();
}

async function whileBusy(run: EngineRun): Promise<void> {
  for (let turn = 0; run.engine.hasWork; turn++) {
    expect(turn).toBeLessThan(2000);
    await run.turn();
  }
}

async function expectAsAlone(...recordings: readonly Recording[]): Promise<void> {
  for (const recording of recordings) {
    const alone = await runAlone(model, { ...recording.request, cachePrompt: false });
    for (let choice = 0; choice < recording.request.numChoices; choice++)
      expect(recording.tokens(choice)).toEqual(alone.tokens(choice));
  }
}

test('says nothing while the others go on, then the rest', async () => {
  const run = new EngineRun(model);
  const paused = run.submit(makeRequest(ids(20, 1), { maxTokens: 30, numChoices: 2 }));
  const other = run.submit(makeRequest(ids(20, 2), { maxTokens: 30 }));
  await pauseAfter(run, paused, 5);
  const numEvents = paused.events.length;
  await whileBusy(run);
  expect(other.hasEnded).toBe(true);
  expect(paused.events).toHaveLength(numEvents);
  // Nobody needed its place or its memory.
  expect(run.engine.stats()).toMatchObject({ running: 2, waiting: 0, parked: 0, preemptions: 0 });
  run.engine.resume(paused.request.id);
  await run.untilIdle();
  await expectAsAlone(paused, other);
});

describe('with nothing but paused requests the engine rests', () => {
  let run: EngineRun;
  let paused: Recording;
  beforeEach(async () => {
    run = new EngineRun(model);
    paused = run.submit(makeRequest(ids(20, 1), { maxTokens: 30 }));
    await pauseAfter(run, paused, 3);
    await whileBusy(run);
    expect(run.engine.isIdle).toBe(false);
  });

  test('until one is resumed', async () => {
    run.engine.resume(paused.request.id);
    expect(run.engine.hasWork).toBe(true);
    await run.untilIdle();
    await expectAsAlone(paused);
  });

  test('until one is cancelled', async () => {
    run.cancel(paused);
    expect(run.engine.hasWork).toBe(true);
    await run.turn();
    expect(run.engine.isIdle).toBe(true);
    await run.untilIdle();
  });

  test('until a choice is stopped', async () => {
    run.engine.stopChoice(paused.request.id, 0);
    await run.turn();
    expect(paused.finish()).toMatchObject({ reason: 'stop' });
    expect(paused.done.usage.completionTokens).toBe(paused.tokens().length);
    await run.untilIdle();
  });

  test('until another one comes, and again after it', async () => {
    const other = run.submit(makeRequest(ids(9, 3), { maxTokens: 4 }));
    await whileBusy(run);
    expect(other.hasEnded).toBe(true);
    expect(paused.hasEnded).toBe(false);
    run.cancel(paused);
    await run.untilIdle();
  });
});

describe('who waits for a place gets that of a paused one', () => {
  /** One that is parked, while another one runs in its only place. */
  async function parkedRun(options: { cachePrompt?: boolean; numChoices?: number } = {}) {
    const counted = countRows(model);
    const run = new EngineRun(counted.model, { maxRunning: 1 });
    const paused = run.submit(makeRequest(ids(50, 1), { maxTokens: 40, ...options }));
    await pauseAfter(run, paused, 6);
    const other = run.submit(makeRequest(ids(20, 2), { maxTokens: 12, priority: 9 }));
    while (other.tokens().length < 2) await run.turn();
    const numParked = paused.request.numChoices;
    expect(run.engine.stats()).toMatchObject({ running: 1, waiting: 0, parked: numParked });
    return { run, paused, other, numRows: counted.numRows };
  }

  test.each([1, 3])('and gives it back when it is resumed (%i choices)', async (numChoices) => {
    const { run, paused, other } = await parkedRun({ numChoices });
    await whileBusy(run);
    expect(other.hasEnded).toBe(true);
    run.engine.resume(paused.request.id);
    await run.untilIdle();
    await expectAsAlone(paused, other);
    expect(paused.all('started')).toHaveLength(1);
  });

  test('resumed too early, it waits like any other', async () => {
    const { run, paused, other } = await parkedRun();
    run.engine.resume(paused.request.id);
    await run.turn();
    expect(run.engine.stats()).toMatchObject({ running: 1, waiting: 1, parked: 0 });
    run.engine.pause(paused.request.id);
    await run.turn();
    expect(run.engine.stats()).toMatchObject({ running: 1, waiting: 0, parked: 1 });
    run.engine.resume(paused.request.id);
    await run.untilIdle();
    await expectAsAlone(paused, other);
  });

  test('what it had computed is kept as a prefix', async () => {
    const { run, paused, numRows } = await parkedRun({ cachePrompt: true });
    await whileBusy(run);
    const before = numRows();
    const numSaid = paused.tokens().length;
    run.engine.resume(paused.request.id);
    await run.untilIdle();
    // One row for each token that was missing, none for its prompt.
    expect(numRows() - before).toBeLessThanOrEqual(paused.request.maxTokens - numSaid + 1);
    await expectAsAlone(paused);
  });

  test('cancelled or stopped while parked, it holds nothing', async () => {
    for (const end of ['cancel', 'stop'] as const) {
      const { run, paused, other } = await parkedRun();
      if (end === 'cancel') run.cancel(paused);
      else run.engine.stopChoice(paused.request.id, 0);
      await run.turn();
      expect(run.engine.stats()).toMatchObject({ running: 1, waiting: 0, parked: 0 });
      if (end === 'stop') expect(paused.finish()).toMatchObject({ reason: 'stop' });
      await run.untilIdle();
      expect(other.tokens()).toHaveLength(12);
    }
  });
});

test('choices that wait for a place do not stand in others’ way', async () => {
  const run = new EngineRun(model, { maxRunning: 2 });
  const paused = run.submit(makeRequest(ids(30, 1), { maxTokens: 25, numChoices: 5 }));
  await pauseAfter(run, paused, 3);
  const other = run.submit(makeRequest(ids(30, 2), { maxTokens: 25, numChoices: 2, priority: 3 }));
  await whileBusy(run);
  expect(other.hasEnded).toBe(true);
  expect(paused.hasEnded).toBe(false);
  run.engine.resume(paused.request.id);
  await run.untilIdle();
  await expectAsAlone(paused, other);
});

describe('memory', () => {
  test('a prompt that does not fit beside a paused sequence takes its place', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 3 * block, prefixCacheMaxBytes: 0 });
    const paused = run.submit(makeRequest(ids(60, 1), { maxTokens: 40 }));
    await pauseAfter(run, paused, 10);
    const other = run.submit(makeRequest(ids(100, 2), { maxTokens: 20, priority: 5 }));
    await whileBusy(run);
    expect(other.hasEnded).toBe(true);
    expect(run.engine.stats()).toMatchObject({ running: 0, parked: 1, kvBytes: 0 });
    run.engine.resume(paused.request.id);
    await run.untilIdle();
    await expectAsAlone(paused, other);
  });

  test('a growing sequence takes it from a paused one, however urgent, before one that runs', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 4 * block, prefixCacheMaxBytes: 0 });
    const paused = run.submit(makeRequest(ids(60, 1), { maxTokens: 40, priority: -9 }));
    const growing = [2, 3].map((seed) => run.submit(makeRequest(ids(50, seed), { maxTokens: 50 })));
    await pauseAfter(run, paused, 3);
    await whileBusy(run);
    expect(growing.every((recording) => recording.hasEnded)).toBe(true);
    expect(run.engine.stats()).toMatchObject({ running: 0, parked: 1, preemptions: 1 });
    run.engine.resume(paused.request.id);
    await run.untilIdle();
    await expectAsAlone(paused, ...growing);
  });

  test('paused in the middle of its prompt, it ends its slice and then gives way', async () => {
    const run = new EngineRun(model, { kvMaxBytes: 5 * block, prefixCacheMaxBytes: 0 });
    const long = run.submit(makeRequest(ids(250, 1), { maxTokens: 4, reportProgress: true }));
    await run.turn();
    run.engine.pause(long.request.id);
    await whileBusy(run);
    const other = run.submit(makeRequest(ids(200, 2), { maxTokens: 20 }));
    await whileBusy(run);
    expect(other.hasEnded).toBe(true);
    run.engine.resume(long.request.id);
    await run.untilIdle();
    await expectAsAlone(long, other);
  });
});

test('under each policy a parked sequence goes on with the tokens it would have said', async () => {
  const stories = withPattern(await load(STORIES));
  const cases = LAST_OF_EACH.filter(({ family, value }) => isAccepted(stories, { [family]: value }));
  expect(cases.length).toBeGreaterThan(10);
  for (const [i, policyCase] of cases.entries()) {
    const prompt = makeIds(i % 2 === 0 ? 90 : 270, stories.info.vocabSize, i);
    const request = makeRequest(prompt, { maxTokens: 18, pruning: choiceOf(stories, policyCase) });
    const run = new EngineRun(stories, { maxRunning: 1 });
    const paused = run.submit(request);
    await pauseAfter(run, paused, 11);
    const other = run.submit(makeRequest(makeIds(30, stories.info.vocabSize, 99), { maxTokens: 3 }));
    await whileBusy(run);
    expect(other.hasEnded, policyCase.title).toBe(true);
    expect(run.engine.stats().parked).toBe(1);
    run.engine.resume(request.id);
    await run.untilIdle();
    expect(paused.tokens(), policyCase.title).toEqual((await runAlone(stories, request)).tokens());
  }
});
