/** What evictions hear of a prompt when token policies leave rows out on the way. */
import { expect, test } from 'vitest';
import { type AliveTokens, createPolicies, type HeadEntries } from '../../src/policies/index.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun } from './pruned-drive.ts';
import { makeIds, PRUNED_SHAPES, STORIES } from './support/engine.ts';
import { CASES, choose, isAccepted } from './support/policies.ts';

const WINDOW = 16;

/** Observing policies, and how many rows each should hear; null = all that a layer computed. */
const OBSERVERS = [
  { value: { policy: 'tova', keep: 0.5 }, numRows: 1 },
  { value: { policy: 'snapkv', keep: 0.5, observation_window: WINDOW }, numRows: WINDOW },
  { value: { policy: 'h2o', keep: 0.5 }, numRows: null },
];

const load = modelLoader();
const tokenCases = CASES.filter(({ family }) => family === 'tokens');

/** Probabilities of a row sum up to one, so that sums over entries count rows. */
const numHeard = (entries: HeadEntries): number => entries.attention().reduce((sum, value) => sum + value, 0);

test.each(
  tokenCases.flatMap(({ title, value }) =>
    OBSERVERS.map((observer) => ({ title, tokens: value, ...observer })),
  ),
)('$title beside $value', async ({ tokens, value, numRows }) => {
  const model = await load(STORIES);
  if (!isAccepted(model, { tokens, kv: value })) return;
  const policies = createPolicies(choose(model, { tokens, kv: value }), model.info.shape);
  if (policies.kv?.kind !== 'evict') throw new Error('an evicting policy');
  const { kv } = policies;
  const heard: { layer: number; length: number; rows: number }[] = [];
  const select = (entries: HeadEntries, budget: number): Int32Array => {
    heard.push({ layer: entries.layer, length: entries.length, rows: numHeard(entries) });
    return kv.select(entries, budget);
  };
  const run = new PrunedRun(model, { ...policies, kv: { ...kv, select } });
  await run.prefill(makeIds(300, model.info.vocabSize, 1));
  expect(heard.map(({ layer }) => layer)).toEqual(expect.arrayContaining([...Array(model.numLayers).keys()]));
  for (const { layer, length, rows } of heard) {
    if (numRows !== null) expect(rows, `layer ${layer}`).toBeCloseTo(numRows, 2);
    else expect(rows, `layer ${layer}`).toBeLessThan(length + 0.01);
  }
  run.cache.free();
});

test.each(
  tokenCases.flatMap(({ title, value }) =>
    [
      { dir: STORIES, beside: { layers: { policy: 'attention-drop', drop: [1] } } },
      { dir: STORIES, beside: { layers: { policy: 'finercut', attention: [0, 2], mlp: [1] } } },
      { dir: PRUNED_SHAPES, beside: {} },
    ].map((rest) => ({ title, tokens: value, ...rest })),
  ),
)('$title in $dir beside $beside never chooses blindly', async ({ dir, tokens, beside }) => {
  const model = await load(dir);
  if (!isAccepted(model, { tokens, ...beside })) return;
  const policies = createPolicies(choose(model, { tokens, ...beside }), model.info.shape);
  const policy = policies.tokens!;
  const importances: Float32Array[] = [];
  const select = (alive: AliveTokens, budget: number): Int32Array => {
    importances.push(alive.importance);
    return policy.select(alive, budget);
  };
  const run = new PrunedRun(model, { ...policies, tokens: { ...policy, select } });
  await run.prefill(makeIds(100, model.info.vocabSize, 1));
  await run.decode(5);
  expect(importances.length).toBeGreaterThan(0);
  for (const importance of importances)
    expect(importance.some((value) => value > 0)).toBe(policy.observes !== 'none');
  run.cache.free();
});
