/** The signals of a run against attention computed naively, with as many entries in each head as it likes. */
import { describe, expect, it } from 'vitest';
import type { AttentionShape } from '../../src/graph/architecture.ts';
import type { HeadView, LayerResult, LayerRun, TileHeadView } from '../../src/graph/session.ts';
import type { Model } from '../../src/runtime/model.ts';
import { noise } from '../graph/noise.ts';
import { checkpoints, maxDifference } from './drive.ts';
import { modelLoader } from './fixture.ts';

const model = modelLoader();
const TOLERANCE = 1e-5;

const dirOf = new Map(checkpoints('arch').map(({ name, dir }) => [name, dir]));
/** Two KV heads with two query heads each; two shapes in one model; one KV head for four query heads. */
const cases: [name: string, layer: number][] = [
  ['qwen3', 0],
  ['llama-pruned-shapes', 1],
  ['llama-pruned-shapes', 4],
  ['llama-mqa-v5config', 1],
];

/** Softmax of query . key / sqrt(headDim) + mask. @returns one probability an entry */
function attend(query: Float32Array, keys: Float32Array, mask: (entry: number) => number): number[] {
  const { length: headDim } = query;
  const scores = Array.from({ length: keys.length / headDim }, (_, entry) => {
    const dot = query.reduce((sum, q, i) => sum + q * keys[entry * headDim + i]!, 0);
    return dot / Math.sqrt(headDim) + mask(entry);
  });
  const top = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - top));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
}

/** One row's query of a query head. */
function queryOf(
  projected: Float32Array,
  shape: AttentionShape,
  row: number,
  queryHead: number,
): Float32Array {
  const { queryHeads, kvHeads, headDim } = shape;
  const start = row * (queryHeads + 2 * kvHeads) * headDim + queryHead * headDim;
  return projected.subarray(start, start + headDim);
}

/** A run over noise that closes `layer`. */
async function run(
  loaded: Model,
  layer: number,
  numRows: number,
  rest: Pick<LayerRun, 'attention' | 'signal'>,
): Promise<LayerResult & { projectedInput: Float32Array }> {
  const { queryHeads, kvHeads, headDim } = loaded.architecture.layers[layer]!.attention!;
  const projected = noise(5, numRows * (queryHeads + 2 * kvHeads) * headDim);
  const result = await loaded.session.run({
    layer: layer + 1,
    numRows,
    hidden: noise(6, numRows * loaded.architecture.config.hiddenSize),
    projected,
    rope: layer + 1 === loaded.numLayers ? null : loaded.rope.rows(new Int32Array(numRows)),
    ...rest,
  });
  return { ...result, projectedInput: projected };
}

describe.each(cases)('%s, layer %i', (name, layer) => {
  const shapeOf = (loaded: Model): AttentionShape => loaded.architecture.layers[layer]!.attention!;

  it('decode: the signal is the attention of each row', async () => {
    const loaded = await model(dirOf.get(name)!);
    const shape = shapeOf(loaded);
    const { queryHeads, kvHeads, headDim } = shape;
    const numSequences = 5;
    const slots = 6;
    const heads = Array.from({ length: numSequences }, (_, slot) =>
      Array.from({ length: kvHeads }, (_head, head): HeadView => {
        const numEntries = 1 + ((slot * 7 + head * 11) % 23);
        const values = noise(100 + slot, numEntries * headDim);
        return { keys: noise(slot * 10 + head, numEntries * headDim), values };
      }),
    );
    const { signal: got, projectedInput } = await run(loaded, layer, slots, {
      attention: { kind: 'decode', shape, slots, heads },
      signal: 'lastQuery',
    });
    const group = queryHeads / kvHeads;
    const expected = heads.flatMap((views, slot) =>
      views.flatMap((view, head) =>
        Array.from({ length: group }, (_, i) =>
          attend(queryOf(projectedInput, shape, slot, head * group + i), view.keys, () => 0),
        ).flat(),
      ),
    );
    // The sixth slot is empty: each of its query heads sees the one entry that fills it.
    expect(maxDifference(got, [...expected, ...Array<number>(queryHeads).fill(1)])).toBeLessThan(TOLERANCE);
  });

  it.each([
    ['with entries before it', 20],
    ['at the start', 0],
  ])('tile %s: the signals of every head', async (_where, numBefore) => {
    const loaded = await model(dirOf.get(name)!);
    const shape = shapeOf(loaded);
    const { queryHeads, kvHeads, headDim } = shape;
    const numRows = 9;
    const mask = Float32Array.from({ length: numRows * numRows }, (_, i) =>
      i % numRows > Math.floor(i / numRows) ? -1e30 : 0,
    );
    const heads = Array.from({ length: kvHeads }, (_, head): TileHeadView => {
      const before = numBefore === 0 ? 0 : numBefore + 3 * head;
      return {
        keys: noise(20 + head, (before + numRows) * headDim),
        values: noise(40 + head, (before + numRows) * headDim),
        mask,
      };
    });
    const group = queryHeads / kvHeads;
    const attention = { kind: 'tile', shape, heads } as const;
    const last = await run(loaded, layer, numRows, { attention, signal: 'lastQuery' });
    /** [query head][row][entry] */
    const probabilities = heads.flatMap((view, head) => {
      const before = view.keys.length / headDim - numRows;
      return Array.from({ length: group }, (_, i) =>
        Array.from({ length: numRows }, (_row, row) =>
          attend(queryOf(last.projectedInput, shape, row, head * group + i), view.keys, (entry) =>
            entry < before ? 0 : mask[row * numRows + entry - before]!,
          ),
        ),
      );
    });
    expect(
      maxDifference(
        last.signal,
        probabilities.flatMap((rows) => rows.at(-1)!),
      ),
    ).toBeLessThan(TOLERANCE);
    const overRows = (reduce: (column: number[]) => number) =>
      probabilities.flatMap((rows) => rows[0]!.map((_, entry) => reduce(rows.map((row) => row[entry]!))));
    const sums = await run(loaded, layer, numRows, { attention, signal: 'columnSums' });
    const expected = overRows((column) => column.reduce((a, b) => a + b, 0));
    expect(maxDifference(sums.signal.subarray(0, expected.length), expected)).toBeLessThan(TOLERANCE);
    expect(maxDifference(sums.hidden, last.hidden)).toBe(0);
    /** L1 norm of each query head's output, all rows together. */
    const magnitudes = probabilities.map((rows, queryHead) => {
      const { values } = heads[Math.floor(queryHead / group)]!;
      const output = (row: number[], i: number) =>
        row.reduce((sum, p, entry) => sum + p * values[entry * headDim + i]!, 0);
      return rows.flatMap((row) => Array.from({ length: headDim }, (_, i) => Math.abs(output(row, i))));
    });
    expect(
      maxDifference(
        sums.signal.subarray(expected.length),
        magnitudes.map((all) => all.reduce((a, b) => a + b, 0)),
      ),
    ).toBeLessThan(TOLERANCE * numRows * headDim);
    const maxima = await run(loaded, layer, numRows, { attention, signal: 'columnMaxima' });
    expect(
      maxDifference(
        maxima.signal,
        overRows((column) => Math.max(...column)),
      ),
    ).toBeLessThan(TOLERANCE);
  });

  it('is empty when none is asked for, which changes nothing else', async () => {
    const loaded = await model(dirOf.get(name)!);
    const shape = shapeOf(loaded);
    const view = { keys: noise(1, 5 * shape.headDim), values: noise(2, 5 * shape.headDim) };
    const heads = [Array<HeadView>(shape.kvHeads).fill(view)];
    const attention = { kind: 'decode', shape, slots: 1, heads } as const;
    const without = await run(loaded, layer, 1, { attention, signal: 'none' });
    const asked = await run(loaded, layer, 1, { attention, signal: 'lastQuery' });
    expect(without.signal).toHaveLength(0);
    expect(asked.signal).toHaveLength(shape.queryHeads * 5);
    expect(maxDifference(without.hidden, asked.hidden)).toBe(0);
  });
});
