/**
 * What a decode step of one stream cannot go below with onnxruntime's kernels: the integer products of all layers and the
 * head, and the attention of one KV head a layer over a long context, each alone in a graph without anything else.
 * `tsx bench/floor.ts [entries]`
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { headTensor, layerTensors, resolveArchitecture } from '../src/graph/architecture.ts';
import type { Architecture } from '../src/graph/architecture.ts';
import { rowAttention } from '../src/graph/attention.ts';
import { linearsFor } from '../src/graph/linear.ts';
import { readModelConfig } from '../src/graph/model-config.ts';
import { GraphBuilder } from '../src/graph/onnx.ts';
import { Checkpoint } from '../src/graph/safetensors.ts';
import { WeightFile } from '../src/graph/weight-file.ts';
import { ensureCheckpoint } from './checkpoint.ts';
import { median } from './prompts.ts';

const THREADS = 2;
const STEPS = 40;
/** Of all activations: what is multiplied does not change how long it takes. */
const ACTIVATION = 130;

interface Program {
  readonly graph: GraphBuilder;
  readonly feeds: Record<string, Tensor>;
}

/** One number of each value, so that none of them is left out. */
function outputOf(graph: GraphBuilder, values: readonly string[]): void {
  const largest = values.map((value) =>
    graph.reshape(graph.node('ReduceMax', [value], { keepdims: 0 }), [1]),
  );
  graph.nodeTo(['largest'], 'Concat', largest, { axis: 0 });
  graph.output('largest', 'float', [values.length]);
}

/** Every linear layer of the model, for one row. */
function products(checkpoint: Checkpoint, { config, layers }: Architecture, file: WeightFile): Program {
  const graph = new GraphBuilder();
  const linears = linearsFor('int8', checkpoint, file);
  const feeds: Record<string, Tensor> = {};
  const multiply = (...tensors: string[]): string => {
    const width = checkpoint.find(tensors[0] ?? '')?.shape[1] ?? 0;
    const rows = `rows_${width}`;
    if (feeds[rows] === undefined) {
      graph.input(rows, 'uint8', [1, width]);
      feeds[rows] = new Tensor('uint8', new Uint8Array(width).fill(ACTIVATION), [1, width]);
    }
    return linears.load(graph, tensors).applyUnscaled(graph, { rows, rowScale: null }).rows;
  };
  const values = layers.flatMap((_, layer) => {
    const names = layerTensors(layer);
    const weights = [
      [names.query, names.key, names.value],
      [names.output],
      [names.gate],
      [names.up],
      [names.down],
    ];
    return weights.map((stack) => multiply(...stack.map((name) => `${name}.weight`)));
  });
  outputOf(graph, [...values, multiply(headTensor(config))]);
  return { graph, feeds };
}

/** Attention of one row to one KV head of each layer. */
function attention({ config, layers }: Architecture, numEntries: number): Program {
  const graph = new GraphBuilder();
  const { headDim } = config;
  const feeds: Record<string, Tensor> = {};
  const input = (name: string, rows: number): string => {
    const data = Float32Array.from({ length: rows * headDim }, (_, i) => Math.sin(i * 1.37 + rows));
    graph.input(name, 'float', [rows, headDim]);
    feeds[name] = new Tensor('float32', data, [rows, headDim]);
    return name;
  };
  const values = layers.flatMap(({ attention: shape }, layer) => {
    if (shape === null) return [];
    const query = input(`query_${layer}`, shape.queryHeads / shape.kvHeads);
    const entries = {
      keys: input(`keys_${layer}`, numEntries),
      values: input(`values_${layer}`, numEntries),
    };
    return [rowAttention(graph, query, entries, shape, 1)[0]];
  });
  outputOf(graph, values);
  return { graph, feeds };
}

/** ms of one run. */
async function time(folder: string, { graph, feeds }: Program): Promise<number> {
  const file = path.join(folder, 'model.onnx');
  fs.writeFileSync(file, graph.toModel());
  const session = await InferenceSession.create(file, { intraOpNumThreads: THREADS, interOpNumThreads: 1 });
  const times: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    const start = performance.now();
    await session.run(feeds);
    times.push(performance.now() - start);
  }
  await session.release();
  return median(times.slice(5));
}

const numEntries = Number(process.argv[2] ?? 8192);
const modelDir = ensureCheckpoint();
const checkpoint = new Checkpoint(modelDir);
const architecture = resolveArchitecture(checkpoint, readModelConfig(modelDir));
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-floor-'));
try {
  const file = new WeightFile(path.join(folder, 'weights.bin'));
  const program = products(checkpoint, architecture, file);
  file.close();
  const productsMs = await time(folder, program);
  const attentionMs = await time(folder, attention(architecture, numEntries));
  const ms = (value: number): string => `${value.toFixed(1)} ms`;
  console.log(`integer products of a step: ${ms(productsMs)}`);
  console.log(`attention of one KV head a layer over ${numEntries} entries: ${ms(attentionMs)}`);
  console.log(
    `a step with 1 and with 2 such heads a layer: at least ${ms(productsMs + attentionMs)}, ${ms(productsMs + 2 * attentionMs)}`,
  );
} finally {
  checkpoint.close();
  fs.rmSync(folder, { recursive: true });
}
