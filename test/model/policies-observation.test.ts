/** What evictions hear of a prompt when token policies leave rows out on the way. */
import { expect, test } from 'vitest';
import { evicting } from '../../src/policies/budget-options.ts';
import {
  type AliveTokens,
  createPolicies,
  type EvictingPolicy,
  type HeadEntries,
} from '../../src/policies/index.ts';
import { checkpoints, maxDifference } from './drive.ts';
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

const PYSPELL = checkpoints('models').find(({ name }) => name === 'pyspell')!.dir;
const NONE = new Int32Array(0);

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

// One query head a KV head: the engine keeps means over query heads that share one, kvzip wants their maximum.
test.each([
  {},
  { layers: { policy: 'attention-drop', drop: [0] } },
  { layers: { policy: 'finercut', mlp: [0, 1] } },
  { layers: { policy: 'head-mask', heads: [[0, 2]] } },
])('kvzip beside $layers hears the most that any row of the repetition attends to', async (beside) => {
  const model = await load(PYSPELL);
  const ids = makeIds(40, model.info.vocabSize, 1);
  const policies = createPolicies(choose(model, { kv: 'kvzip', ...beside }), model.info.shape);
  const kvzip = policies.kv as EvictingPolicy;
  const heard: { layer: number; head: number; scores: Float32Array }[] = [];
  const allot = (heads: readonly HeadEntries[], average: number): readonly number[] => {
    for (const entries of heads)
      heard.push({ layer: entries.layer, head: entries.head, scores: entries.attention() });
    return kvzip.allot!(heads, average);
  };
  const run = new PrunedRun(model, { ...policies, kv: { ...kvzip, allot } });
  await run.prefill(ids, 'last', 16);
  run.cache.free();
  expect(heard).toHaveLength(model.info.shape.layers.reduce((sum, { kvHeads }) => sum + kvHeads, 0));

  // The same by decoding the prompt once more, row by row, with sums that grow by what each row attends to.
  const sums = evicting({ keep: 1, sink: 0, interval: 1000 }, { observes: 'all', select: () => NONE });
  const repeated = new PrunedRun(model, { ...policies, kv: sums });
  await repeated.prefill(ids);
  const most = heard.map(() => new Float32Array(ids.length));
  const scoresOf = ({ layer, head }: (typeof heard)[number]) =>
    repeated.pruning.pruned.heads(layer)[head]!.scores.slice(0, ids.length);
  for (const id of ids) {
    const before = heard.map(scoresOf);
    await repeated.decode(id);
    heard.forEach((item, i) => {
      scoresOf(item).forEach((sum, j) => (most[i]![j] = Math.max(most[i]![j]!, sum - before[i]![j]!)));
    });
  }
  repeated.cache.free();
  heard.forEach(({ layer, head, scores }, i) => {
    const isDropped = policies.layers?.attention[layer] === false;
    const expected = isDropped ? [] : most[i]!;
    expect(maxDifference(scores, expected), `layer ${layer}, head ${head}`).toBeLessThan(1e-4);
  });
});
