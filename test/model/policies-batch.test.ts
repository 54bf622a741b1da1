/** Requests under different policies run together, and each gets what it gets alone. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import type { GenerationRequest, PruningReport } from '../../src/runtime/protocol.ts';
import { modelLoader } from './fixture.ts';
import {
  EngineRun,
  kvBytes,
  makeIds,
  makeRequest,
  PRUNED_SHAPES,
  type Recording,
  runAlone,
  SLIDING_WINDOW,
  STORIES,
} from './support/engine.ts';
import {
  CASES,
  acceptedBy,
  choiceOf,
  choose,
  GQA,
  isAccepted,
  LAST_OF_EACH,
  type PolicyCase,
  withPattern,
} from './support/policies.ts';

/** Below and above the prompts that may share a pass, and some that no policy can prune. */
const LENGTHS = [300, 40, 120, 2, 270, 90, 1, 257, 64];
const SHORTER = [260, 40, 90, 1, 64];

const load = modelLoader();

interface Outcome {
  readonly tokens: number[];
  readonly pruning: PruningReport | null;
}

/** Without the peak, which depends on how a prompt was sliced: whoever waits beside it has a say in that. */
function outcomeOf(recording: Recording): Outcome {
  const { pruning } = recording.done;
  const kv = pruning?.kv && { ...pruning.kv, peakBytes: 0 };
  return { tokens: recording.tokens(), pruning: pruning && { ...pruning, kv: kv ?? null } };
}

async function aloneEach(model: Model, requests: readonly GenerationRequest[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const request of requests) {
    const recording = await runAlone(model, request);
    expect(recording.tokens(), request.id).toHaveLength(request.maxTokens);
    outcomes.push(outcomeOf(recording));
  }
  return outcomes;
}

/** Submits all, with so many turns between two of them. */
async function together(
  run: EngineRun,
  requests: readonly GenerationRequest[],
  turnsBetween: number,
): Promise<Outcome[]> {
  const recordings = [];
  for (const request of requests) {
    recordings.push(run.submit(request));
    for (let turn = 0; turn < turnsBetween; turn++) await run.turn();
  }
  await run.untilIdle();
  return recordings.map(outcomeOf);
}

/** Dense requests among them. */
function requestsFor(model: Model, cases: readonly PolicyCase[], lengths: readonly number[]) {
  return [null, ...cases, null].map((policyCase, i) =>
    makeRequest(makeIds(lengths[i % lengths.length]!, model.info.vocabSize, i), {
      id: `${i} ${policyCase?.title ?? 'dense'}`,
      // Evictions of the examples come after 8 and 16.
      maxTokens: 18 - (i % 4),
      pruning: policyCase && choiceOf(model, policyCase),
    }),
  );
}

describe.each([
  ['stories260K', STORIES, CASES, LENGTHS],
  ['grouped queries', GQA, LAST_OF_EACH, SHORTER],
  ['sliding windows', SLIDING_WINDOW, LAST_OF_EACH, SHORTER],
  ['layers without attention and with fewer heads', PRUNED_SHAPES, LAST_OF_EACH, SHORTER],
])('%s', (_, dir, cases, lengths) => {
  let model: Model;
  let requests: GenerationRequest[];
  let alone: Outcome[];
  beforeAll(async () => {
    model = withPattern(await load(dir));
    requests = requestsFor(model, acceptedBy(model, cases), lengths);
    alone = await aloneEach(model, requests);
  });

  test.each(dir === STORIES ? [0, 3] : [2])(
    'every example of every policy, %i turns between them, equals each alone',
    async (turns) => {
      const run = new EngineRun(model, { maxRunning: 64 });
      expect(await together(run, requests, turns)).toEqual(alone);
      expect(run.engine.stats().preemptions).toBe(0);
    },
  );

  test('also where memory is short and sequences have to start again', async () => {
    const run = new EngineRun(model, { maxRunning: 64, kvMaxBytes: 1.5 * kvBytes(model, 320) });
    expect(await together(run, requests, 1)).toEqual(alone);
    expect(run.engine.stats().preemptions).toBeGreaterThan(0);
  });
});

const PARTNERS = [
  { kv: 'duo-attention' },
  { kv: { policy: 'duo-attention', sparsity: 0.5, sink: 4, recent: 16, prefill: 'exact' } },
  { kv: { policy: 'snapkv', max_entries: 48, observation_window: 16, interval: 4 } },
  { kv: { policy: 'tova', max_entries: 24, interval: 4 } },
  { kv: { policy: 'kvzip', keep: 0.4 } },
  { kv: { policy: 'quest', max_entries: 32, page: 8, dense_layers: 0 } },
  { layers: { policy: 'attention-drop', drop: [1] } },
  { layers: { policy: 'head-mask', heads: [[0, 1]] } },
];

test('combinations of families', async () => {
  const model = withPattern(await load(GQA));
  const tokens = CASES.filter(({ family }) => family === 'tokens');
  const values = tokens.flatMap(({ value }) => PARTNERS.map((partner) => ({ tokens: value, ...partner })));
  const accepted = values.filter((value) => isAccepted(model, value));
  expect(accepted.length).toBeGreaterThan((2 / 3) * values.length);
  const requests = accepted.map((value, i) =>
    makeRequest(makeIds([90, 30, 60, 260, 40][i % 5]!, model.info.vocabSize, i), {
      id: `${i} ${JSON.stringify(value)}`,
      maxTokens: 10,
      pruning: choose(model, value),
    }),
  );
  const run = new EngineRun(model, { maxRunning: 64 });
  expect(await together(run, requests, 0)).toEqual(await aloneEach(model, requests));
});
