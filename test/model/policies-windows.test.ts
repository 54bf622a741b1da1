/** Evicting policies on layers with a sliding window: what is heard of them, and what is kept. */
import { afterAll, describe, expect, test } from 'vitest';
import { evicting } from '../../src/policies/budget-options.ts';
import { createPolicies, type EvictingPolicy, type HeadEntries } from '../../src/policies/index.ts';
import type { Model } from '../../src/runtime/model.ts';
import { maxDifference } from './drive.ts';
import { PrunedRun } from './pruned-drive.ts';
import { loadModel, makeIds, SLIDING_WINDOW } from './support/engine.ts';
import { choose, LAST_OF_EACH } from './support/policies.ts';

/** As the engine repeats prompts. */
const CHUNK_TOKENS = 2048;
const MIXED = ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'];
const LONG = { max_position_embeddings: 8192 };

const models = new Map<string, Promise<Model>>();
afterAll(async () => {
  for (const model of models.values()) await (await model).close();
});

/** The same random weights with other windows. */
function load(config: Record<string, unknown>): Promise<Model> {
  const key = JSON.stringify(config);
  const model = models.get(key) ?? loadModel(SLIDING_WINDOW, config);
  models.set(key, model);
  return model;
}

function kvOf(model: Model, kv: unknown): EvictingPolicy {
  const policy = createPolicies(choose(model, { kv }), model.info.shape).kv;
  if (policy?.kind !== 'evict') throw new Error('an evicting policy');
  return policy;
}

const windowsOf = (model: Model): (number | null)[] => model.architecture.layers.map(({ window }) => window);

type Scores = Float32Array[][];

/** Scores by layer and head when the heads are about to be cut. */
async function kvzipScores(model: Model, ids: readonly number[]): Promise<Scores> {
  const kvzip = kvOf(model, 'kvzip');
  let scores: Scores = [];
  const allot = (heads: readonly HeadEntries[], average: number): readonly number[] => {
    scores = run.pruning.pruned.all.map((layer) => layer.map((head) => head.scores.slice()));
    return kvzip.allot!(heads, average);
  };
  const run = new PrunedRun(model, { kv: { ...kvzip, allot } }, 4096);
  await run.prefill(ids);
  run.cache.free();
  return scores;
}

/** The most that any of the rows that decode `repeated` behind the prompt gives to the prompt's entries. */
async function decodedScores(
  model: Model,
  ids: readonly number[],
  repeated: readonly number[],
): Promise<Scores> {
  const all = evicting(
    { keep: 1, sink: 0, interval: 10_000 },
    { observes: 'all', select: () => new Int32Array(0) },
  );
  const run = new PrunedRun(model, { kv: all }, 4096);
  await run.prefill(ids);
  const most = run.pruning.pruned.all.map((heads) => heads.map(() => new Float32Array(ids.length)));
  run.pruning.observe = (layer, fed, signal) => {
    const { queryHeads, kvHeads } = model.architecture.layers[layer]!.attention!;
    let at = 0;
    fed.forEach(({ positions }, head) => {
      const scores = most[layer]![head]!;
      for (let query = 0; query < queryHeads / kvHeads; query++)
        for (const position of positions) {
          const value = signal[at++]!;
          if (position < ids.length) scores[position] = Math.max(scores[position]!, value);
        }
    });
  };
  for (const id of repeated) await run.decode(id);
  run.cache.free();
  return most;
}

function expectAlike(model: Model, scores: Scores, expected: Scores, numTokens: number): void {
  windowsOf(model).forEach((window, layer) => {
    scores[layer]!.forEach((head, j) => {
      const title = `layer ${layer}, head ${j}`;
      expect(maxDifference(head, expected[layer]![j]!), title).toBeLessThan(1e-5);
      if (window === null) return;
      const oldest = Math.max(0, numTokens - window + 1);
      expect(
        head.findIndex((score) => score > 0),
        `${title}: oldest entry that a later row may see`,
      ).toBe(oldest);
    });
  });
}

describe('kvzip scores', () => {
  test.each([
    { sliding_window: 8 },
    { sliding_window: 24 },
    { sliding_window: 200 },
    { sliding_window: 24, layer_types: MIXED },
  ])('are what rows behind the prompt see of it: %o', async (config) => {
    const model = await load(config);
    const ids = makeIds(150, model.info.vocabSize, 1);
    expectAlike(model, await kvzipScores(model, ids), await decodedScores(model, ids, ids), ids.length);
  });

  test('of prompts of two chunks are so, too', async () => {
    const window = 24;
    const model = await load({ ...LONG, sliding_window: window });
    const ids = makeIds(CHUNK_TOKENS + 50, model.info.vocabSize, 2);
    // Rows farther back than the window see nothing but the repetition.
    const chunks = [ids.slice(0, window), ids.slice(CHUNK_TOKENS).slice(0, window)];
    const [first, second] = [
      await decodedScores(model, ids, chunks[0]!),
      await decodedScores(model, ids, chunks[1]!),
    ];
    const expected = first.map((heads, layer) =>
      heads.map((head, j) => head.map((score, i) => Math.max(score, second[layer]![j]![i]!))),
    );
    expectAlike(model, await kvzipScores(model, ids), expected, ids.length);
  });

  test('are those without a window where it reaches everything', async () => {
    const [wide, without] = [
      await load({ ...LONG, sliding_window: 8192 }),
      await load({ ...LONG, sliding_window: null }),
    ];
    const ids = makeIds(CHUNK_TOKENS + 50, wide.info.vocabSize, 3);
    expect(await kvzipScores(wide, ids)).toEqual(await kvzipScores(without, ids));
  });
});

const NUM_TOKENS = 100;
const KEEP = 0.2;
const INTERVAL = 8;

const SPLIT_OR_READING = ['duo-attention', 'quest', 'longheads'];
const EVICTING = LAST_OF_EACH.filter(
  ({ family, name }) => family === 'kv' && !SPLIT_OR_READING.includes(name),
).map(({ name }) => name);

/** By layer and head, what no token from position `next` on can see. */
function unseen(model: Model, run: PrunedRun, next: number): number[][][] {
  return windowsOf(model).map((window, layer) =>
    run.pruning.pruned
      .heads(layer)
      .map(({ positions }) => [...positions].filter((position) => position <= next - (window ?? Infinity))),
  );
}

describe.each([{ sliding_window: 24 }, { sliding_window: 24, layer_types: MIXED }, { sliding_window: 1 }])(
  '%o',
  (config) => {
    test.each(EVICTING)('%s keeps nothing that no later token can see', async (name) => {
      const model = await load(config);
      const isOnce = name === 'kvzip';
      const kv = kvOf(model, { policy: name, keep: KEEP, ...(!isOnce && { interval: INTERVAL }) });
      const run = new PrunedRun(model, { kv });
      const nothing = run.lengths.map((heads) => heads.map(() => []));
      await run.prefill(makeIds(NUM_TOKENS, model.info.vocabSize, 4));
      expect(unseen(model, run, NUM_TOKENS)).toEqual(nothing);
      if (kv.allot === undefined && kv.layerBudget === undefined) {
        const budget = Math.max(KEEP * NUM_TOKENS, kv.sink + kv.recent);
        const kept = windowsOf(model).map((window) =>
          window === null ? budget : Math.min(budget, window - 1),
        );
        expect(run.lengths).toEqual(kept.map((length) => [length, length]));
      }
      for (let i = 1; i <= 2 * INTERVAL && !isOnce; i++) {
        await run.decode(5 + i);
        if (i % INTERVAL === 0) expect(unseen(model, run, NUM_TOKENS + i)).toEqual(nothing);
      }
      run.cache.free();
    });
  },
);

test('kvzip gives other layers what windows do not need', async () => {
  const model = await load({ sliding_window: 24, layer_types: MIXED });
  const run = new PrunedRun(model, { kv: kvOf(model, { policy: 'kvzip', keep: 0.5 }) });
  await run.prefill(makeIds(100, model.info.vocabSize, 4));
  const kept = run.lengths.map((heads) => heads.reduce((a, b) => a + b, 0));
  expect(kept.reduce((a, b) => a + b, 0)).toBe(0.5 * 100 * 2 * 4);
  run.cache.free();
});
