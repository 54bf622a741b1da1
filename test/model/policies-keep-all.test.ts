/** Policies that are told to keep everything change no bit of what the model says. */
import { beforeAll, describe, expect, it } from 'vitest';
import {
  createPolicies,
  type Family,
  type LayerPolicy,
  type PruningChoice,
} from '../../src/policies/index.ts';
import type { Model } from '../../src/runtime/model.ts';
import { argmax, checkpoints, decodeOne, emptyCache, maxDifference, prefill } from './drive.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun } from './pruned-drive.ts';
import { makeIds } from './support/engine.ts';
import {
  CASES,
  choiceOf,
  choose,
  isAccepted,
  LAST_OF_EACH,
  type PolicyCase,
  withPattern,
} from './support/policies.ts';

const SHARE = { keep: 1, max_entries: undefined };
const STAGE = { stages: [{ layer: 0, keep: 1 }] };

/** The options that keep everything, over those of an example; null = a list that must not be empty. */
const KEEP_ALL: Readonly<Record<string, object | null>> = {
  'tokens lazyllm': STAGE,
  'tokens spatten': { token_keep: 1, head_keep: 1 },
  'tokens ftp': { keep: 1 },
  'tokens random': STAGE,
  'kv duo-attention': { sparsity: 0 },
  'kv streaming-llm': SHARE,
  'kv h2o': SHARE,
  'kv tova': SHARE,
  'kv snapkv': SHARE,
  'kv pyramidkv': SHARE,
  'kv expected-attention': SHARE,
  'kv key-norm': SHARE,
  'kv key-diff': SHARE,
  'kv kvzip': SHARE,
  'kv random': SHARE,
  'kv quest': SHARE,
  'kv longheads': SHARE,
  'layers attention-drop': null,
  'layers finercut': null,
  'layers head-mask': { factor: 1 },
};

/** Evictions of the examples come after 8 and 16. */
const NUM_STEPS = 18;
/** More than a tile. */
const PROMPT_TOKENS = 150;

function keepingAll(model: Model, { family, name, value }: PolicyCase) {
  const options = KEEP_ALL[`${family} ${name}`];
  if (options === undefined) throw new Error(`how does ${name} keep everything?`);
  if (options === null) {
    const all = model.info.shape.layers.map(() => true);
    const layers: LayerPolicy = { attention: all, mlp: all, headScale: all.map(() => null) };
    return { layers };
  }
  const example = typeof value === 'string' ? { policy: value } : (value as object);
  const merged = JSON.parse(JSON.stringify({ ...example, ...options })) as object;
  return createPolicies(choose(model, { [family]: merged }), model.info.shape);
}

const load = modelLoader();
const found = [...checkpoints('models'), ...checkpoints('arch')];
const dirOf = (name: string): string => found.find((checkpoint) => checkpoint.name === name)!.dir;

interface Dense {
  readonly ids: readonly number[];
  /** The tokens after the prompt, and the logits before each of them and after the last. */
  readonly tokens: readonly number[];
  readonly logits: readonly Float32Array[];
}

async function runDense(model: Model): Promise<Dense> {
  const ids = makeIds(PROMPT_TOKENS, model.info.vocabSize, 5);
  const cache = emptyCache(model, ids.length + NUM_STEPS);
  const logits = await prefill(model, cache, ids, { logits: 'last' });
  const tokens: number[] = [];
  while (tokens.length < NUM_STEPS) {
    tokens.push(argmax(logits.at(-1)!));
    logits.push((await decodeOne(model, cache, tokens.at(-1)!, ids.length + tokens.length - 1)).slice());
  }
  cache.free();
  return { ids, tokens, logits };
}

describe.each([
  ['stories260K', 'fp32', 0, CASES],
  ['llama-gqa-rope3', 'fp32', 0, CASES],
  ['stories260K', 'int8', 0, LAST_OF_EACH],
  ['llama-pruned-shapes', 'fp32', 0, LAST_OF_EACH],
  // Where a run's entries begin depends on its first row's window: tiles of other rows add up in another order.
  ['mistral-swa', 'fp32', 2e-5, LAST_OF_EACH],
] as const)('%s, %s', (name, precision, tolerance, cases) => {
  let model: Model;
  let dense: Dense;
  beforeAll(async () => {
    model = withPattern(await load(dirOf(name), precision));
    dense = await runDense(model);
  });

  it.each(cases)('$title', async (policyCase) => {
    const run = new PrunedRun(model, keepingAll(model, policyCase));
    const logits = await run.prefill(dense.ids);
    for (const id of dense.tokens) logits.push(await run.decode(id));
    expect(logits).toHaveLength(dense.logits.length);
    logits.forEach((row, i) => {
      expect(maxDifference(row, dense.logits[i]!), `after ${i} decoded tokens`).toBeLessThanOrEqual(
        tolerance,
      );
    });
    run.cache.free();
  });
});

/** What keeps everything, of one family beside an example of another one. */
const NEUTRAL: Readonly<Partial<Record<Family, readonly object[]>>> = {
  tokens: [
    { policy: 'lazyllm', ...STAGE, prefill_only: true },
    { policy: 'ftp', keep: 1 },
  ],
  kv: [
    { policy: 'duo-attention', sparsity: 0 },
    { policy: 'h2o', keep: 1, interval: 4 },
    { policy: 'quest', keep: 1 },
  ],
  layers: [{ policy: 'head-mask', heads: [[1, 0]], factor: 1 }],
};

describe('beside another family', () => {
  const pairs = LAST_OF_EACH.flatMap((policyCase) =>
    Object.entries(NEUTRAL)
      .filter(([family]) => family !== policyCase.family)
      .flatMap(([family, values]) => values.map((value) => ({ policyCase, family, value }))),
  );

  async function follow(choice: PruningChoice): Promise<Float32Array[]> {
    const run = new PrunedRun(model, createPolicies(choice, model.info.shape));
    const logits = await run.prefill(dense.ids);
    for (const id of dense.tokens) logits.push(await run.decode(id));
    run.cache.free();
    return logits;
  }

  let model: Model;
  let dense: Dense;
  beforeAll(async () => {
    model = withPattern(await load(dirOf('stories260K')));
    dense = await runDense(model);
  });

  it.each(LAST_OF_EACH)('$title changes the same', async (policyCase) => {
    const expected = await follow(choiceOf(model, policyCase));
    for (const { family, value } of pairs.filter((pair) => pair.policyCase === policyCase)) {
      const both = { [policyCase.family]: policyCase.value, [family]: value };
      if (!isAccepted(model, both)) continue;
      const logits = await follow(choose(model, both));
      logits.forEach((row, i) => {
        const title = `${JSON.stringify(value)}, after ${i} decoded tokens`;
        expect.soft(maxDifference(row, expected[i]!), title).toBe(0);
      });
    }
  });
});
