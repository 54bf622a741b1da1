/** Runs that leave parts out: what is asked for is the same as in a whole run, what is left out passes the rows on. */
import { describe, expect, it } from 'vitest';
import type { AttentionFeed, LayerRun, RunParts } from '../../src/graph/session.ts';
import type { Model } from '../../src/runtime/model.ts';
import { noise } from '../graph/noise.ts';
import { checkpoints, maxDifference } from './drive.ts';
import { modelLoader } from './fixture.ts';

const NUM_ROWS = 5;
const dirs = checkpoints('arch').filter(({ name }) =>
  ['qwen2', 'qwen3', 'llama-gqa-rope3', 'llama-pruned-shapes'].includes(name),
);

function makeRun(model: Model, layer: number): LayerRun {
  const { hiddenSize } = model.architecture.config;
  const shape = model.architecture.layers[layer - 1]?.attention;
  const base = {
    layer,
    numRows: NUM_ROWS,
    hidden: noise(1, NUM_ROWS * hiddenSize),
    rope: layer === model.numLayers ? null : model.rope.range(0, NUM_ROWS),
    signal: 'none' as const,
  };
  if (shape == null) return { ...base, projected: null, attention: { kind: 'none' } };
  const { queryHeads, kvHeads, headDim } = shape;
  const heads = Array.from({ length: kvHeads }, (_, head) => ({
    keys: noise(10 + head, 9 * headDim),
    values: noise(30 + head, 9 * headDim),
    mask: noise(40, NUM_ROWS * 2),
  }));
  const projected = noise(2, NUM_ROWS * (queryHeads + 2 * kvHeads) * headDim);
  return { ...base, projected, attention: { kind: 'tile', shape, heads } };
}

const only = (parts: Partial<RunParts>): RunParts => ({
  attention: false,
  mlp: false,
  open: false,
  ...parts,
});
const skip = (feed: AttentionFeed): AttentionFeed =>
  feed.kind === 'tile' ? { kind: 'skip', shape: feed.shape } : feed;

const cases = dirs.flatMap(({ name, dir }) =>
  (['fp32', 'int8'] as const).map((precision) => ({ name, dir, precision })),
);

describe.each(cases)('$name $precision', ({ dir, precision }) => {
  const model = modelLoader();

  it('finishing and opening apart are the same as both together', async () => {
    const loaded = await model(dir, precision);
    for (let layer = 1; layer <= loaded.numLayers; layer++) {
      const run = makeRun(loaded, layer);
      const whole = await loaded.session.run(run);
      const isLast = layer === loaded.numLayers;
      const finished = await loaded.session.run({ ...run, parts: only({ attention: true, mlp: true }) });
      expect(finished.projected).toHaveLength(0);
      expect(finished.hidden).toHaveLength(run.hidden.length);
      if (!isLast) expect(maxDifference(finished.hidden, whole.hidden)).toBe(0);
      const opened = await loaded.session.run({
        ...run,
        hidden: finished.hidden,
        attention: skip(run.attention),
        parts: only({ open: true }),
      });
      expect(maxDifference(opened.hidden, whole.hidden)).toBe(0);
      expect(maxDifference(opened.projected, whole.projected)).toBe(0);
    }
  });

  it('attention and MLP apart are the same as both together', async () => {
    const loaded = await model(dir, precision);
    for (let layer = 1; layer <= loaded.numLayers; layer++) {
      const run = makeRun(loaded, layer);
      const whole = await loaded.session.run({ ...run, parts: only({ attention: true, mlp: true }) });
      const attended = await loaded.session.run({ ...run, parts: only({ attention: true }) });
      const after = { ...run, hidden: attended.hidden, attention: skip(run.attention) };
      const both = await loaded.session.run({ ...after, parts: only({ mlp: true }) });
      expect(maxDifference(both.hidden, whole.hidden)).toBe(0);
      const neither = await loaded.session.run({ ...run, attention: skip(run.attention), parts: only({}) });
      expect(maxDifference(neither.hidden, run.hidden)).toBe(0);
    }
  });

  // Quantised rows are no linear function of their parts.
  if (precision === 'int8') return;

  it('scales the output of each query head', async () => {
    const loaded = await model(dir, precision);
    const run = makeRun(loaded, 1);
    if (run.attention.kind !== 'tile') return;
    const { queryHeads } = run.attention.shape;
    const parts = only({ attention: true });
    const scaled = (factors: number[]) =>
      loaded.session.run({
        ...run,
        parts,
        attention: { ...run.attention, headScale: Float32Array.from(factors) } as AttentionFeed,
      });
    const plain = await loaded.session.run({ ...run, parts });
    const ones = await scaled(Array<number>(queryHeads).fill(1));
    expect(maxDifference(ones.hidden, plain.hidden)).toBe(0);
    // The block is linear in the scale of its heads: the parts of all heads add up to the whole.
    const none = await scaled(Array<number>(queryHeads).fill(0));
    const sum = none.hidden.slice();
    for (let head = 0; head < queryHeads; head++) {
      const one = await scaled(Array.from({ length: queryHeads }, (_, i) => (i === head ? 1 : 0)));
      one.hidden.forEach((value, i) => (sum[i]! += value - none.hidden[i]!));
    }
    expect(maxDifference(sum, plain.hidden)).toBeLessThan(1e-4);
    expect(maxDifference(none.hidden, plain.hidden)).toBeGreaterThan(1e-2);
  });
});
