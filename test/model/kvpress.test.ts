/** Evicting policies against NVIDIA's kvpress on whole models: which entries stay, by which scores, and what comes next. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createPolicies, type HeadEntries, type ModelShape, parsePruning } from '../../src/policies/index.ts';
import { windowScores } from '../../src/policies/kv/snapkv.ts';
import { maxDifference } from './drive.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun } from './pruned-drive.ts';

interface Args {
  readonly compression_ratio: number;
  readonly window_size?: number;
  readonly kernel_size?: number;
  readonly n_sink?: number;
  readonly n_future_positions?: number;
}

interface Case {
  readonly model: string;
  readonly press: string;
  readonly args: Args;
  readonly input_ids: number[];
  readonly kept_per_layer_kv_head: number[][][];
  readonly min_relative_gap_at_cut: number;
  readonly next_token_id: number;
  readonly next_token_logits: number[];
  readonly scores_last_layer_head0: number[];
}

/** Entries that presses keep by a score of their own making, at both ends. */
interface Ends {
  readonly first: number;
  readonly last: number;
}

interface Counterpart {
  /** Our policy and what corresponds to the arguments. */
  readonly policy: (args: Args) => object;
  /** Our numbers for the press' scores; null = ranks of its own that we do not need. */
  readonly scores: ((entries: HeadEntries, args: Args) => Float32Array) | null;
  readonly made: (args: Args) => Ends;
}

const NOT_PROTECTED = { sink: 0, recent: 0 };
const NO_ENDS: Ends = { first: 0, last: 0 };

const COUNTERPARTS: Readonly<Record<string, Counterpart>> = {
  SnapKVPress: {
    policy: ({ window_size: window, kernel_size: kernel }) => ({
      policy: 'snapkv',
      sink: 0,
      recent: 0,
      observation_window: window,
      kernel,
    }),
    // The press takes means over the window's rows.
    scores: (entries, { window_size: window, kernel_size: kernel }) =>
      windowScores(entries, kernel!).map((sum) => sum / window!),
    made: ({ window_size: window }) => ({ first: 0, last: window! }),
  },
  KnormPress: {
    policy: () => ({ policy: 'key-norm', ...NOT_PROTECTED }),
    scores: (entries) => entries.keyNorms().map((norm) => -norm),
    made: () => NO_ENDS,
  },
  StreamingLLMPress: {
    policy: ({ n_sink: sink }) => ({ policy: 'streaming-llm', sink }),
    scores: null,
    made: () => NO_ENDS,
  },
  TOVAPress: {
    policy: () => ({ policy: 'tova' }),
    scores: (entries) => entries.layerAttention(),
    made: () => ({ first: 0, last: 1 }),
  },
  ExpectedAttentionPress: {
    policy: ({ n_future_positions: future, n_sink: sink }) => ({
      policy: 'expected-attention',
      sink,
      recent: 0,
      future,
    }),
    scores(entries, { n_future_positions: future, n_sink: sink }) {
      const norms = entries.valueNorms();
      return entries.expectedAttention(future!, sink!).map((expected, i) => expected * norms[i]!);
    },
    made: ({ n_sink: sink }) => ({ first: sink!, last: 0 }),
  },
  KeyDiffPress: {
    policy: () => ({ policy: 'key-diff', ...NOT_PROTECTED }),
    scores: (entries) => entries.keySimilarities().map((similarity) => -similarity),
    made: () => NO_ENDS,
  },
};

const root = join(import.meta.dirname, '../..');
const file = join(root, 'test/fixtures/kvpress/presses.json');
const cases = JSON.parse(readFileSync(file, 'utf8')) as Case[];
const model = modelLoader();

/** What single precision cannot tell from 0: a score for which chance decides. */
const LEAST_SCORE = 1.2e-38;

interface Selection {
  readonly ours: Int32Array;
  readonly scores: Float32Array | null;
}

/** The policy, noting what it selects, by layer and head. */
function watched({ press, args }: Case, shape: ModelShape) {
  const { policy: optionsOf, scores } = COUNTERPARTS[press]!;
  // 1 - 0.3 is a little less than 0.7.
  const keep = Number((1 - args.compression_ratio).toFixed(9));
  const choice = parsePruning({ kv: { ...optionsOf(args), keep } }, {}, shape)!;
  const { kv } = createPolicies(choice, shape);
  if (kv?.kind !== 'evict') throw new Error(`${press} evicts`);
  const selections: Selection[][] = [];
  const select = (entries: HeadEntries, budget: number): Int32Array => {
    const ours = kv.select(entries, budget);
    const heads = (selections[entries.layer] ??= []);
    heads[entries.head] = { ours, scores: scores?.(entries, args) ?? null };
    return ours;
  };
  return { kv: { ...kv, select }, selections };
}

/** Equal, but for what lies nearer to a tie than single precision can tell. */
function expectSame({ ours, scores }: Selection, theirs: number[], gap: number): void {
  if (gap >= 1e-5) {
    expect([...ours]).toEqual(theirs);
    return;
  }
  expect(ours).toHaveLength(theirs.length);
  const differing = theirs.filter((position) => !ours.includes(position) && scores![position]! > LEAST_SCORE);
  expect(differing.length / theirs.length).toBeLessThanOrEqual(0.01);
}

function expectCloseScores(ours: Float32Array, theirs: number[], { first, last }: Ends): void {
  expect(ours).toHaveLength(theirs.length);
  for (let i = first; i < theirs.length - last; i++)
    expect(Math.abs(ours[i]! - theirs[i]!), `entry ${i}`).toBeLessThan(1e-3 * Math.abs(theirs[i]!));
}

describe.each(
  cases.map((reference) => ({ ...reference, title: `${reference.press} on ${reference.model}` })),
)('$title', (reference) => {
  it('keeps the same entries, scored alike, and goes on alike', async () => {
    const { press, args, kept_per_layer_kv_head: expected } = reference;
    const loaded = await model(join(root, reference.model));
    const { kv, selections } = watched(reference, loaded.info.shape);
    const run = new PrunedRun(loaded, { kv });
    await run.prefill(reference.input_ids);
    for (const [layer, heads] of expected.entries())
      heads.forEach((theirs, head) => {
        const selection = selections[layer]![head]!;
        expectSame(selection, theirs, reference.min_relative_gap_at_cut);
        expect(run.positions(layer, head)).toEqual([...selection.ours]);
      });
    const { scores } = selections.at(-1)![0]!;
    expect(scores === null).toBe(COUNTERPARTS[press]!.scores === null);
    if (scores !== null)
      expectCloseScores(scores, reference.scores_last_layer_head0, COUNTERPARTS[press]!.made(args));
    run.cache.free();

    // On their cache: entries between which chance decides may matter after all.
    const select = ({ layer, head }: HeadEntries) => Int32Array.from(expected[layer]![head]!);
    const next = new PrunedRun(loaded, { kv: { ...kv, select } });
    await next.prefill(reference.input_ids);
    const logits = await next.decode(reference.next_token_id);
    expect(maxDifference(logits, reference.next_token_logits)).toBeLessThan(2e-3);
    next.cache.free();
  });
});
