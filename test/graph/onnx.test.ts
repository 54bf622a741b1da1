/** The graph builder, by what onnxruntime computes from its graphs. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { DATA_TYPE, GraphBuilder, select } from '../../src/graph/onnx.ts';
import type { Case } from '../../src/graph/onnx.ts';
import { WeightFile } from '../../src/graph/weight-file.ts';
import { tempDir } from './checkpoint-files.ts';

const OPTIONS = { intraOpNumThreads: 1, logSeverityLevel: 4 } as const;

type Run = (feeds: Readonly<Record<string, Tensor>>) => Promise<number[]>;

/** Loads a graph whose only output is `y`. */
async function load(model: Uint8Array | string): Promise<Run> {
  const session =
    typeof model === 'string'
      ? await InferenceSession.create(model, OPTIONS)
      : await InferenceSession.create(model, OPTIONS);
  return async (feeds) => [...((await session.run(feeds))['y']!.data as Float32Array)];
}

function withOutput(graph: GraphBuilder, value: string): Uint8Array {
  graph.nodeTo(['y'], 'Identity', [value]);
  graph.output('y', 'float', ['n']);
  return graph.toModel();
}

const index = (value: number): Tensor => new Tensor('int64', BigInt64Array.of(BigInt(value)), []);
const vector = (...values: number[]): Tensor =>
  new Tensor('float32', Float32Array.from(values), [values.length]);
const constantCase = (key: number): Case => ({ key, build: (g) => [g.constant('float', [key])] });

describe('select', () => {
  it('picks the case with the greatest key that is not above the selector', async () => {
    const keys = fc.uniqueArray(fc.integer({ min: -50, max: 50 }), { minLength: 1, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(keys, async (unsorted) => {
        const ascending = unsorted.sort((a, b) => a - b);
        const graph = new GraphBuilder();
        graph.input('x', 'int64', []);
        const [y = ''] = select(graph, 'x', ascending.map(constantCase), [{ name: 'y', rank: 1 }]);
        const run = await load(withOutput(graph, y));
        for (const x of ascending.flatMap((key) => [key - 1, key, key + 1])) {
          const expected = ascending.filter((key) => key <= x).at(-1) ?? ascending[0];
          expect(await run({ x: index(x) })).toEqual([expected]);
        }
      }),
      { numRuns: 15 },
    );
  });

  it('runs nothing but the case that was picked', async () => {
    const graph = new GraphBuilder();
    graph.input('x', 'int64', []);
    graph.input('data', 'float', ['n']);
    // Reshaping to three elements fails for any other input, if it is run.
    const strict: Case = { key: 1, build: (g) => [g.reshape('data', [3])] };
    const [y = ''] = select(graph, 'x', [constantCase(0), strict], [{ name: 'y', rank: 1 }]);
    const run = await load(withOutput(graph, y));
    expect(await run({ x: index(0), data: vector(1, 2) })).toEqual([0]);
    expect(await run({ x: index(1), data: vector(1, 2, 3) })).toEqual([1, 2, 3]);
    await expect(run({ x: index(1), data: vector(1, 2) })).rejects.toThrow();
  });

  it('nests, sees the values around it and hands several outputs through', async () => {
    const graph = new GraphBuilder();
    graph.input('outer', 'int64', []);
    graph.input('inner', 'int64', []);
    graph.input('data', 'float', ['n']);
    const doubled = graph.node('Add', ['data', 'data']);
    const scaled = (key: number): Case => ({
      key,
      build: (g) => [g.node('Mul', [doubled, g.constant('float', [key], [])]), 'data'],
    });
    const outputs = [
      { name: 'scaled', rank: 1 },
      { name: 'data', rank: 1 },
    ];
    const nested: Case = { key: 1, build: (g) => select(g, 'inner', [2, 3, 5].map(scaled), outputs) };
    // Neither output is computed in this branch: one comes from around it, one is a constant.
    const plain: Case = { key: 0, build: (g) => [doubled, g.constant('float', [7, 8])] };
    const [first = '', second = ''] = select(graph, 'outer', [plain, nested], outputs);
    const run = await load(withOutput(graph, graph.concat([first, second], 0)));
    const data = vector(1, 10);
    expect(await run({ outer: index(0), inner: index(5), data })).toEqual([2, 20, 7, 8]);
    for (const key of [2, 3, 5]) {
      const expected = [2 * key, 20 * key, 1, 10];
      expect(await run({ outer: index(1), inner: index(key), data })).toEqual(expected);
    }
  });
});

describe('constants', () => {
  it('are written once a graph for the same type, shape and values', () => {
    const graph = new GraphBuilder();
    const first = graph.constant('float', [1, 2]);
    expect(graph.constant('float', [1, 2])).toBe(first);
    expect(graph.constant('float', [1, 2], [2])).toBe(first);
    const others = [
      graph.constant('float', [1, 2], [1, 2]),
      graph.constant('int64', [1, 2]),
      graph.constant('float', [12]),
      graph.constant('float', []),
      graph.constant('float', [1], []),
      graph.constant('float', [1]),
      new GraphBuilder(graph).constant('float', [1, 2]),
    ];
    expect(new Set([first, ...others]).size).toBe(8);
  });

  it.each(['float', 'uint8', 'int8', 'int64'] as const)('of type %s keep their values', async (type) => {
    const values = type === 'uint8' ? [0, 1, 255] : [-128, 0, 127];
    const graph = new GraphBuilder();
    const cast = graph.node('Cast', [graph.constant(type, values)], { to: DATA_TYPE.float });
    expect(await (await load(withOutput(graph, cast)))({})).toEqual(values);
  });

  it('tell zero from negative zero', async () => {
    const graph = new GraphBuilder();
    const parts = [0, -0].map((zero) => graph.node('Reciprocal', [graph.constant('float', [zero])]));
    expect(await (await load(withOutput(graph, graph.concat(parts, 0))))({})).toEqual([Infinity, -Infinity]);
  });
});

describe('values', () => {
  it('split and join again, and a split into one part is no node', async () => {
    const graph = new GraphBuilder();
    graph.input('data', 'float', ['n']);
    expect(graph.split('data', [5], 0)).toEqual(['data']);
    expect(graph.concat(['data'], 0)).toBe('data');
    const parts = graph.split('data', [1, 3, 1], 0);
    const run = await load(withOutput(graph, graph.concat([...parts].reverse(), 0)));
    expect(await run({ data: vector(1, 2, 3, 4, 5) })).toEqual([5, 2, 3, 4, 1]);
  });

  it('have names that no subgraph repeats', () => {
    const graph = new GraphBuilder();
    const sub = new GraphBuilder(graph);
    const names = [graph, sub, new GraphBuilder(sub)].flatMap((g) => [
      g.uniqueName('a'),
      g.node('Add', ['x', 'y']),
    ]);
    expect(new Set(names).size).toBe(names.length);
  });

  it('may be an initializer as it is', async () => {
    const graph = new GraphBuilder();
    const name = graph.initializer(Float32Array.of(1, 2, 3).subarray(1), [2]);
    expect(await (await load(withOutput(graph, name)))({})).toEqual([2, 3]);
  });
});

describe('weights', () => {
  it('are found in the external file, also from a subgraph of a subgraph', async () => {
    const dir = tempDir();
    const file = new WeightFile(join(dir, 'weights.bin'));
    const graph = new GraphBuilder();
    graph.input('x', 'int64', []);
    const weightCase = (key: number): Case => ({
      key,
      build: (g) => [g.weight('w', 'float', [2], file.append(Float32Array.of(key, -key)))],
    });
    const [y = ''] = select(graph, 'x', [1, 2, 3, 4].map(weightCase), [{ name: 'y', rank: 1 }]);
    file.close();
    writeFileSync(join(dir, 'model.onnx'), withOutput(graph, y));
    const run = await load(join(dir, 'model.onnx'));
    for (const key of [1, 2, 3, 4]) expect(await run({ x: index(key) })).toEqual([key, -key]);
  });

  it('lie at multiples of a page, or behind each other', () => {
    const dir = tempDir();
    const data = Float32Array.of(1, 2, 3);
    const paged = new WeightFile(join(dir, 'paged'));
    expect([paged.append(data), paged.append(Int8Array.of(1))]).toEqual([
      { location: 'paged', offset: 0, length: 12 },
      { location: 'paged', offset: 4096, length: 1 },
    ]);
    paged.close();
    const dense = new WeightFile(join(dir, 'dense'), 1);
    expect([
      dense.append(data).offset,
      dense.append(data.subarray(1)).offset,
      dense.append(data).offset,
    ]).toEqual([0, 12, 20]);
    dense.close();
    expect(() => new WeightFile(join(dir, 'dense'))).toThrow('EEXIST');
  });
});
