/** Scores of heads and blocks on a text, against what they are computed from in another way. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cutPassages } from '../../src/commands/calibration.ts';
import {
  attentionSimilarities,
  type Block,
  blocksOf,
  leastMissedBlocks,
} from '../../src/runtime/calibration/block-scores.ts';
import {
  addUnrotated,
  AREA_POSITIONS,
  attentionArea,
} from '../../src/runtime/calibration/head-area.kernel.ts';
import { computeGates } from '../../src/runtime/calibration/head-gates.ts';
import { nextLayer, openPassage, passageLogits } from '../../src/runtime/calibration/passage.ts';
import { computeRepeatGates } from '../../src/runtime/calibration/repeat-gates.ts';
import { readHeadPattern } from '../../src/graph/head-pattern.ts';
import { evicting } from '../../src/policies/budget-options.ts';
import { streamingHeads } from '../../src/policies/kv/duo-attention.ts';
import type { Model } from '../../src/runtime/model.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { filled, makeDir, safetensors, TINY, tinyShapes } from '../graph/checkpoint-files.ts';
import { noise } from '../graph/noise.ts';
import { checkpoints, logProbability, maxDifference, NOVEL, RECALL_DIR, scorePrompt } from './drive.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun } from './pruned-drive.ts';
import { makeIds } from './support/engine.ts';

const model = modelLoader();
const WHOLE = { attention: true, mlp: true };
const dirs = new Map(checkpoints('arch').map(({ name, dir }) => [name, dir]));

const PYSPELL = checkpoints('models').find(({ name }) => name === 'pyspell')!.dir;
const ROOT = join(import.meta.dirname, '../..');

function bundledText(): string {
  const text = readFileSync(join(ROOT, 'config/calibration.txt'), 'utf8');
  return text.slice(text.indexOf('\n') + 1);
}

/** The first prompt of the longest kind. */
function recallPrompt(): string {
  const lines = readFileSync(join(ROOT, 'eval/recall/recall.jsonl'), 'utf8').split('\n');
  const item = JSON.parse(lines.find((line) => line.includes('"recall-2048-0"'))!) as {
    messages: { content: string }[];
  };
  return item.messages[0]!.content;
}

const passage = (length: number, vocabSize: number, seed = 1): Int32Array =>
  Int32Array.from(makeIds(length, vocabSize, seed));

/** A tiny Llama whose named projections are zero: the blocks that they end add nothing. */
function tinyWithout(names: readonly string[]): string {
  const tensors = filled(tinyShapes(), 7);
  for (const name of names) {
    const tensor = tensors[`model.layers.${name}.weight`]!;
    tensors[`model.layers.${name}.weight`] = { ...tensor, bytes: new Uint8Array(tensor.bytes.length) };
  }
  return makeDir({ 'config.json': TINY, 'model.safetensors': safetensors(tensors) });
}

const projectionOf = ({ layer, part }: Block): string =>
  `${layer}.${part === 'attention' ? 'self_attn.o_proj' : 'mlp.down_proj'}`;

describe.each(checkpoints('arch'))('a passage through $name', ({ dir }) => {
  it('has the logits of a prompt', async () => {
    const loaded = await model(dir);
    const ids = passage(70, loaded.info.vocabSize);
    let rows = await openPassage(loaded, ids);
    while (rows.layer + 1 < loaded.numLayers) rows = await nextLayer(loaded, rows, WHOLE);
    const expected = await scorePrompt(loaded, Array.from(ids));
    for (const [from, to] of [
      [0, 32],
      [32, 70],
    ] as const) {
      const logits = await passageLogits(loaded, rows, from, to, WHOLE);
      const { length } = logits;
      const all = Float32Array.of(...expected.slice(from, to).flatMap((row) => Array.from(row)));
      expect(length).toBe((to - from) * loaded.info.vocabSize);
      expect(maxDifference(logits, all)).toBeLessThan(1e-3);
    }
  });
});

describe('area of attention', () => {
  /** One position's frequency a pair, as RoPE without scaling. */
  const table = (numPositions: number, frequencies: readonly number[]) => {
    const angles = Array.from({ length: numPositions }, (_, p) => frequencies.map((f) => p * f)).flat();
    return { cos: Float32Array.from(angles, Math.cos), sin: Float32Array.from(angles, Math.sin) };
  };

  it('is the mean of the cumulative attention of the last position', () => {
    const frequencies = [0.7, 0.09, 0.011];
    const [query, key] = [3, 4].map((seed) => Float64Array.from(noise(seed, 6), (x) => 3 * x)) as [
      Float64Array,
      Float64Array,
    ];
    const numPositions = 40;
    // A pair of components is a complex number; only the distance of two positions matters.
    const scores = Array.from({ length: numPositions }, (_, p) => {
      const distance = numPositions - 1 - p;
      const terms = frequencies.map((f, i) => {
        const real = query[i]! * key[i]! + query[i + 3]! * key[i + 3]!;
        const imaginary = query[i + 3]! * key[i]! - query[i]! * key[i + 3]!;
        return real * Math.cos(f * distance) - imaginary * Math.sin(f * distance);
      });
      return terms.reduce((a, b) => a + b) / Math.sqrt(6);
    });
    const total = scores.reduce((sum, score) => sum + Math.exp(score), 0);
    let cumulative = 0;
    const sums = scores.map((score) => (cumulative += Math.exp(score) / total));
    const expected = sums.reduce((a, b) => a + b) / numPositions;
    expect(attentionArea(query, key, table(numPositions, frequencies))).toBeCloseTo(expected, 5);
  });

  it('is 1 for the oldest, about a half for all alike, and 0 for the newest', () => {
    // One slow pair: within 500 positions it turns half a circle.
    const slow = table(AREA_POSITIONS, [Math.PI / (AREA_POSITIONS - 1)]);
    const [query, opposite] = [Float64Array.of(60, 0), Float64Array.of(-60, 0)];
    expect(attentionArea(query, query, slow)).toBeLessThan(0.02);
    expect(attentionArea(query, opposite, slow)).toBeGreaterThan(0.98);
    const even = attentionArea(query, new Float64Array(2), slow);
    expect(even).toBeCloseTo((AREA_POSITIONS + 1) / 2 / AREA_POSITIONS, 12);
  });

  it.each(['llama-gqa-rope3', 'qwen2-yarn', 'qwen3', 'smollm3-nope'])(
    'starts from queries and keys before RoPE: %s',
    async (name) => {
      const loaded = await model(dirs.get(name)!);
      const shape = loaded.architecture.layers[0]!.attention!;
      const numRows = 50;
      const ids = passage(numRows, loaded.info.vocabSize);
      const { projected } = await openPassage(loaded, ids);
      const half = numRows * (shape.headDim / 2);
      // The same rows from a run whose rotation turns nothing.
      const plain = await loaded.session.run({
        layer: 0,
        numRows,
        hidden: loaded.embedding.rows(ids),
        projected: null,
        rope: { cos: new Float32Array(half).fill(1), sin: new Float32Array(half) },
        attention: { kind: 'none' },
        signal: 'none',
      });
      const width = (shape.queryHeads + shape.kvHeads) * shape.headDim;
      const [got, expected] = [new Float64Array(width), new Float64Array(width)];
      addUnrotated(got, projected, shape, loaded.rope.range(0, numRows));
      addUnrotated(expected, plain.projected, shape, null);
      expect(maxDifference(projected, plain.projected)).toBeGreaterThan(0.01);
      expect(maxDifference(got, expected)).toBeLessThan(1e-4);
    },
  );
});

describe('gates', () => {
  it('are one a KV head of each layer, 1 where there is no RoPE, none where there is no attention', async () => {
    for (const name of ['smollm3-nope', 'mistral-llmdrop', 'llama-pruned-shapes']) {
      const loaded = await model(dirs.get(name)!);
      const gates = await computeGates(loaded, [passage(40, loaded.info.vocabSize)]);
      expect(gates.map((row) => row.length)).toEqual(loaded.kvShape.map(({ kvHeads }) => kvHeads));
      loaded.architecture.layers.forEach(({ rope }, layer) => {
        for (const gate of gates[layer]!) {
          if (!rope) expect(gate).toBe(1);
          else expect(gate > 0 && gate < 1, `${gate}`).toBe(true);
        }
      });
    }
    const noRope = (await model(dirs.get('smollm3-nope')!)).architecture.layers.some(({ rope }) => !rope);
    expect(noRope).toBe(true);
  });

  it('are averaged over passages', async () => {
    const loaded = await model(dirs.get('qwen3')!);
    const passages = [1, 2, 3].map((seed) => passage(20 + seed, loaded.info.vocabSize, seed));
    const apart = await Promise.all(passages.map(async (ids) => (await computeGates(loaded, [ids])).flat()));
    const together = (await computeGates(loaded, passages)).flat();
    const mean = together.map((_, i) => apart.reduce((sum, gates) => sum + gates[i]!, 0) / apart.length);
    expect(maxDifference(together, mean)).toBeLessThan(1e-12);
  });

  it('of the demo model agree with training on its first layers', async () => {
    const loaded = await model(RECALL_DIR);
    const ids = Tokenizer.load(RECALL_DIR).encode(readFileSync(NOVEL, 'utf8')).slice(0, 1024);
    const gates = await computeGates(loaded, [Int32Array.from(ids)]);
    const streaming = streamingHeads(gates, 0.5);
    // Trained: the heads of layer 0 look a fixed distance back, those of layer 1 find facts.
    expect(streaming[0]).toEqual([true, true, true, true]);
    expect(streaming[1]).toEqual([false, false, false, false]);
  });
});

describe('gates from a repetition', () => {
  const SIZES = { sink: 3, recent: 8 };

  it('are the most that a row attends to between sinks and window when the text is decoded again', async () => {
    // One query head a KV head: what is observed in decoding is the mean over those that share one.
    const loaded = await model(PYSPELL);
    const passages = [passage(40, loaded.info.vocabSize, 1), passage(31, loaded.info.vocabSize, 2)];
    const expected = loaded.kvShape.map(({ kvHeads }) => Array<number>(kvHeads).fill(0));
    for (const ids of passages) {
      const kv = evicting(
        { keep: 1, sink: 0, interval: 1000 },
        { observes: 'all', select: () => new Int32Array(0) },
      );
      const run = new PrunedRun(loaded, { kv });
      await run.prefill([...ids]);
      const scores = () =>
        run.pruning.pruned.all.map((heads) =>
          heads.map((head) => head.scores.slice(SIZES.sink, ids.length - SIZES.recent)),
        );
      const most = expected.map((row) => row.map(() => 0));
      for (const id of ids) {
        const before = scores();
        await run.decode(id);
        scores().forEach((heads, layer) => {
          heads.forEach((sums, head) => {
            const gains = sums.map((sum, i) => sum - before[layer]![head]![i]!);
            most[layer]![head] = Math.max(most[layer]![head]!, ...gains);
          });
        });
      }
      run.cache.free();
      most.forEach((row, layer) => {
        row.forEach((gate, head) => (expected[layer]![head]! += gate / passages.length));
      });
    }
    const told: number[] = [];
    const gates = await computeRepeatGates(loaded, passages, SIZES, (done) => told.push(done));
    expect(gates.map((row) => row.length)).toEqual(expected.map((row) => row.length));
    expect(maxDifference(gates.flat(), expected.flat())).toBeLessThan(1e-4);
    expect(told).toEqual([1, 2]);
  });

  it.each(['smollm3-nope', 'mistral-llmdrop', 'llama-pruned-shapes'])(
    'are one a KV head of each layer, none where there is no attention: %s',
    async (name) => {
      const loaded = await model(dirs.get(name)!);
      const gates = await computeRepeatGates(loaded, [passage(30, loaded.info.vocabSize)], SIZES);
      expect(gates.map((row) => row.length)).toEqual(loaded.kvShape.map(({ kvHeads }) => kvHeads));
      for (const gate of gates.flat()) expect(gate > 0 && gate <= 1, `${gate}`).toBe(true);
    },
  );

  // models/README.md has these numbers.
  it.each([
    ['the bundled text', bundledText, { area: [4, 5, 15], repeated: [2, 6, 15] }],
    ['a prompt of the recall set', recallPrompt, { area: [4, 5, 15], repeated: [2, 8, 16] }],
  ])('of the demo model beside its trained ones, by %s', async (_, text, expected) => {
    const loaded = await model(RECALL_DIR);
    const trained = readHeadPattern(join(RECALL_DIR, 'duo-attention'), loaded.architecture)!.gates;
    const tokenizer = Tokenizer.load(RECALL_DIR);
    const ids = tokenizer.encode(text(), { addSpecialTokens: false }).slice(0, 2047);
    /** How many of the KV heads that stream are the same at shares of 1/4, 1/2 and 3/4. */
    const inCommon = (gates: readonly (readonly number[])[]): number[] =>
      [0.25, 0.5, 0.75].map((sparsity) => {
        const [own, other] = [gates, trained].map((g) => streamingHeads(g, sparsity).flat());
        return own!.filter((isStreaming, i) => isStreaming && other![i]).length;
      });
    const area = await computeGates(loaded, cutPassages(ids, tokenizer.prefixIds, 1024));
    const repeated = await computeRepeatGates(loaded, cutPassages(ids, tokenizer.prefixIds, 2048), {
      sink: 16,
      recent: 64,
    });
    expect({ area: inCommon(area), repeated: inCommon(repeated) }).toEqual(expected);
  });
});

describe('similarity of attention', () => {
  it('is 1 where the output projection is zero', async () => {
    const loaded = await model(tinyWithout(['1.self_attn.o_proj']));
    const [first, second] = await attentionSimilarities(loaded, [passage(30, TINY.vocab_size)]);
    expect(second).toBeCloseTo(1, 12);
    expect(first).toBeLessThan(0.99);
  });

  it('is the cosine of a layer’s input and its output where the MLP adds nothing', async () => {
    const loaded = await model(tinyWithout(['0.mlp.down_proj']));
    const passages = [passage(30, TINY.vocab_size, 1), passage(10, TINY.vocab_size, 2)];
    const cosines: number[] = [];
    for (const ids of passages) {
      const before = await openPassage(loaded, ids);
      const after = await nextLayer(loaded, before, WHOLE);
      for (let row = 0; row < ids.length; row++) {
        const [x, y] = [before, after].map(({ hidden }) => hidden.subarray(row * 16, (row + 1) * 16)) as [
          Float32Array,
          Float32Array,
        ];
        cosines.push(
          x.reduce((dot, value, i) => dot + value * y[i]!, 0) / Math.hypot(...x) / Math.hypot(...y),
        );
      }
    }
    const [first] = await attentionSimilarities(loaded, passages);
    expect(first).toBeCloseTo(cosines.reduce((a, b) => a + b) / cosines.length, 6);
  });

  it('is null for layers without attention, and there for all others, the last one included', async () => {
    const loaded = await model(dirs.get('mistral-llmdrop')!);
    const scores = await attentionSimilarities(loaded, [passage(20, loaded.info.vocabSize)]);
    expect(scores.map((score) => score === null)).toEqual(
      loaded.architecture.layers.map(({ attention }) => attention === null),
    );
    for (const score of scores) if (score !== null) expect(Math.abs(score)).toBeLessThanOrEqual(1);
  });
});

describe('greedy divergence', () => {
  /** Mean over rows of the Jensen-Shannon divergence, from its definition. */
  function divergence(dense: readonly Float32Array[], other: readonly Float32Array[]): number {
    const rows = dense.map((row, r) => {
      const terms = Array.from(row, (_, id) => {
        const [p, q] = [row, other[r]!].map((logits) => Math.exp(logProbability(logits, id))) as [
          number,
          number,
        ];
        const m = (p + q) / 2;
        return (p === 0 ? 0 : p * Math.log(p / m)) + (q === 0 ? 0 : q * Math.log(q / m));
      });
      return terms.reduce((a, b) => a + b) / 2;
    });
    return rows.reduce((a, b) => a + b) / rows.length;
  }

  const logitsOf = async (loaded: Model, passages: readonly Int32Array[]): Promise<Float32Array[]> => {
    const all: Float32Array[] = [];
    for (const ids of passages) all.push(...(await scorePrompt(loaded, Array.from(ids))));
    return all;
  };

  it('chooses what trying all models with one block more zeroed chooses', async () => {
    const whole = await model(tinyWithout([]));
    const passages = [passage(40, TINY.vocab_size, 1), passage(35, TINY.vocab_size, 2)];
    const dense = await logitsOf(whole, passages);
    const chosen: Block[] = [];
    const expected: number[] = [];
    while (chosen.length < 3) {
      let best = { block: chosen[0]!, divergence: Infinity };
      for (const block of blocksOf(whole)) {
        if (chosen.some(({ layer, part }) => layer === block.layer && part === block.part)) continue;
        const zeroed = await model(tinyWithout([...chosen, block].map(projectionOf)));
        const found = divergence(dense, await logitsOf(zeroed, passages));
        if (found < best.divergence) best = { block, divergence: found };
      }
      chosen.push(best.block);
      expected.push(best.divergence);
    }
    const told: number[] = [];
    const got = await leastMissedBlocks(whole, passages, 3, (_, done) => told.push(done));
    expect(got.map(({ layer, part }) => ({ layer, part }))).toEqual(chosen);
    expect(
      maxDifference(
        got.map((block) => block.divergence),
        expected,
      ),
    ).toBeLessThan(1e-5);
    expect(told).toEqual([1, 2, 3]);
  });

  it('is zero for blocks that do nothing, which go first', async () => {
    const loaded = await model(tinyWithout(['1.self_attn.o_proj', '0.mlp.down_proj']));
    const [first, second, third] = await leastMissedBlocks(loaded, [passage(30, TINY.vocab_size)], 3);
    expect(first).toEqual({ layer: 0, part: 'mlp', divergence: 0 });
    expect(second).toEqual({ layer: 1, part: 'attention', divergence: 0 });
    expect(third!.divergence).toBeGreaterThan(1e-4);
  });

  it('knows only the blocks that are there', async () => {
    const loaded = await model(dirs.get('mistral-llmdrop')!);
    const { layers } = loaded.architecture;
    const count = layers.filter(({ attention }) => attention !== null).length;
    const blocks = blocksOf(loaded);
    expect(blocks.filter(({ part }) => part === 'attention')).toHaveLength(count);
    expect(blocks.length).toBeLessThan(2 * layers.length);
  });
});

describe('passages', () => {
  it.each([
    [10, 1, 4, [5, 4, 4]],
    [8, 0, 4, [4, 4]],
    [3, 1, 100, [4]],
    [9, 0, 4, [3, 3, 3]],
  ])('%i ids behind %i in pieces of at most %i: %j', (count, numPrefix, most, sizes) => {
    const ids = Array.from({ length: count }, (_, i) => i);
    const passages = cutPassages(ids, Array<number>(numPrefix).fill(99), most + numPrefix);
    expect(passages.map(({ length }) => length).sort((a, b) => b - a)).toEqual(sizes);
    expect(passages.flatMap((p) => Array.from(p.slice(numPrefix)))).toEqual(ids);
    for (const p of passages) expect(Array.from(p.slice(0, numPrefix))).toEqual(Array(numPrefix).fill(99));
  });
});
