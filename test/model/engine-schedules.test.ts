/** Random schedules of requests, cancels, stops and pauses in too little memory: outputs never change and nothing leaks. */
import * as fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import type { GenerationRequest } from '../../src/runtime/protocol.ts';
import {
  BABYLLAMA,
  EngineRun,
  kvBytes,
  loadModel,
  makeIds,
  makeRequest,
  type Recording,
  runAlone,
} from './support/engine.ts';

let model: Model;
let requests: GenerationRequest[];
let alone: Recording[];

/** Prompts with shared beginnings, all kinds of requests. */
function makeRequests(): GenerationRequest[] {
  const ids = (length: number, seed = 1) => makeIds(length, 105, seed);
  const sampling = { temperature: 0.9, topP: 0.95, presencePenalty: 0.2, seed: 17 };
  return [
    makeRequest(ids(20), { maxTokens: 30, cachePrompt: true }),
    makeRequest(ids(60), { maxTokens: 40, cachePrompt: true, priority: 1 }),
    makeRequest(ids(62), { maxTokens: 20, numChoices: 3, sampling, cachePrompt: true }),
    makeRequest(ids(150), { maxTokens: 10, sampling, reportProgress: true, priority: -1 }),
    makeRequest(ids(1), { maxTokens: 70, numChoices: 2, cachePrompt: true }),
    makeRequest(ids(130, 2), { maxTokens: 3, promptLogprobs: 1, reportProgress: true }),
    makeRequest(ids(64), { maxTokens: 0, promptLogprobs: 0, numChoices: 2, cachePrompt: true }),
    makeRequest(ids(127), { maxTokens: 12, sampling: { logprobs: 2 }, cachePrompt: true }),
    makeRequest(ids(200), { maxTokens: 57 }),
    makeRequest(ids(40, 3), {
      maxTokens: 50,
      sampling: { ...sampling, seed: 4 },
      cachePrompt: true,
      priority: 2,
    }),
  ];
}

beforeAll(async () => {
  model = await loadModel(BABYLLAMA);
  requests = makeRequests();
  alone = [];
  for (const request of requests) alone.push(await runAlone(model, request));
});

type Step =
  | { kind: 'submit'; pick: number }
  | { kind: 'cancel' | 'stop' | 'pause' | 'resume'; pick: number; choice: number }
  | { kind: 'turns'; count: number };

const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('submit' as const), pick: fc.nat(99) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom('cancel' as const, 'stop' as const, 'pause' as const, 'resume' as const),
      pick: fc.nat(99),
      choice: fc.nat(2),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('turns' as const), count: fc.integer({ min: 1, max: 9 }) }),
  },
);

/** Which request of the table each recording is, and which of its choices were stopped. */
interface Subject {
  readonly recording: Recording;
  readonly index: number;
  readonly stopped: Set<number>;
}

async function perform(run: EngineRun, steps: readonly Step[]): Promise<Subject[]> {
  const subjects: Subject[] = [];
  for (const step of steps) {
    if (step.kind === 'turns') {
      for (let i = 0; i < step.count; i++) await run.turn();
      continue;
    }
    if (step.kind === 'submit') {
      const index = step.pick % requests.length;
      const recording = run.submit({ ...requests[index]!, id: `subject-${subjects.length}` });
      subjects.push({ recording, index, stopped: new Set() });
      continue;
    }
    const subject = subjects[step.pick % Math.max(1, subjects.length)];
    if (subject === undefined) continue;
    const { id } = subject.recording.request;
    if (step.kind === 'cancel') run.cancel(subject.recording);
    else if (step.kind === 'pause') run.engine.pause(id);
    else if (step.kind === 'resume') run.engine.resume(id);
    else {
      subject.stopped.add(step.choice);
      run.engine.stopChoice(id, step.choice);
    }
  }
  return subjects;
}

function assertAsAlone({ recording, index, stopped }: Subject): void {
  const reference = alone[index]!;
  for (let choice = 0; choice < recording.request.numChoices; choice++) {
    const expected = reference.tokens(choice);
    const tokens = recording.tokens(choice);
    const mayBeShorter = recording.cancelledAt !== null || stopped.has(choice);
    expect(tokens).toEqual(mayBeShorter ? expected.slice(0, tokens.length) : expected);
    if (!mayBeShorter) expect(recording.finish(choice)).toEqual(reference.finish(choice));
  }
  const scores = recording.all('prompt_logprobs')[0]?.logprobs;
  scores?.forEach((score, i) => {
    const expected = reference.all('prompt_logprobs')[0]?.logprobs[i];
    expect(score?.logprob ?? 0).toBeCloseTo(expected?.logprob ?? 0, 3);
  });
}

test('every schedule ends, with the outputs of each request alone', { timeout: 60_000 }, async () => {
  let numPreemptions = 0;
  let numCached = 0;
  let numParked = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(stepArbitrary, { minLength: 5, maxLength: 40 }),
      fc.integer({ min: 4, max: 9 }),
      fc.integer({ min: 1, max: 12 }),
      async (steps, numBlocks, maxRunning) => {
        const kvMaxBytes = numBlocks * kvBytes(model, 64);
        const run = new EngineRun(model, { kvMaxBytes, prefixCacheMaxBytes: kvMaxBytes / 2, maxRunning });
        const subjects = await perform(run, steps);
        for (let turn = 0; run.engine.hasWork; turn++) {
          expect(turn, 'without paused requests all end').toBeLessThan(2000);
          await run.turn();
        }
        numParked += run.engine.stats().parked;
        for (const { recording } of subjects) run.engine.resume(recording.request.id);
        await run.untilIdle();
        for (const subject of subjects) if (!isRefused(subject, kvMaxBytes)) assertAsAlone(subject);
        numPreemptions += run.engine.stats().preemptions;
        numCached += run.engine.stats().cachedTokens;
      },
    ),
    { numRuns: 25, seed: 2026, endOnFailure: true },
  );
  // Otherwise the schedules were too easy.
  expect(numPreemptions).toBeGreaterThan(10);
  expect(numCached).toBeGreaterThan(200);
  expect(numParked).toBeGreaterThan(5);
});

/** True for what can never run here, having checked that it was told so. */
function isRefused({ recording }: Subject, kvMaxBytes: number): boolean {
  const { promptIds, maxTokens } = recording.request;
  const isTooLong = promptIds.length + maxTokens > model.info.contextLength;
  const isTooLarge = kvBytes(model, promptIds.length + maxTokens) > kvMaxBytes;
  if (!isTooLong && !isTooLarge) return false;
  if (recording.cancelledAt === null)
    expect(recording.events).toMatchObject([
      { type: 'error', code: isTooLong ? 'context_length_exceeded' : 'kv_memory_exceeded' },
    ]);
  return true;
}
