/**
 * The graph of a whole model. One run finishes layer l - 1 (attention, output projection, MLP) and opens layer l
 * (norm, query / key / value, RoPE); the run after the last layer gives logits. A scalar `layer` picks the run.
 */
import {
  type Architecture,
  type AttentionShape,
  FINAL_NORM,
  headTensor,
  layerTensors,
} from './architecture.ts';
import { buildAttention, cacheInputs, cacheSlots, distinctShapes } from './attention.ts';
import type { Linear, Linears, ScaledRows } from './linear.ts';
import { GraphBuilder } from './onnx.ts';
import type { Checkpoint } from './safetensors.ts';
import type { WeightFile } from './weight-file.ts';

/** Weights that are not linear layers. */
export interface Sources {
  readonly checkpoint: Checkpoint;
  readonly file: WeightFile;
  readonly linears: Linears;
  readonly onLayer: (done: number, total: number) => void;
}

class LayerBuilder {
  readonly #graph: GraphBuilder;
  readonly #architecture: Architecture;
  readonly #sources: Sources;

  constructor(graph: GraphBuilder, architecture: Architecture, sources: Sources) {
    this.#graph = graph;
    this.#architecture = architecture;
    this.#sources = sources;
  }

  #vector(name: string): string {
    const { checkpoint, file } = this.#sources;
    const values = checkpoint.read(name);
    return this.#graph.weight('vector', 'float', [values.length], file.append(values));
  }

  #norm(x: string, tensor: string): string {
    const attributes = { epsilon: { float: this.#architecture.config.normEpsilon }, axis: -1 };
    return this.#graph.node('SimplifiedLayerNormalization', [x, this.#vector(tensor)], attributes);
  }

  #prepare(rows: string, rowScale: string | null = null): ScaledRows {
    return this.#sources.linears.prepare(this.#graph, { rows, rowScale });
  }

  #linear(...tensors: string[]): Linear {
    return this.#sources.linears.load(
      this.#graph,
      tensors.map((name) => `${name}.weight`),
    );
  }

  /** Attention output and MLP of a layer: hidden rows [M, hidden] -> hidden rows. */
  finish(layer: number, attention: string): string {
    const g = this.#graph;
    const shape = this.#architecture.layers[layer];
    const names = layerTensors(layer);
    let hidden = 'hidden';
    if (shape?.attention) {
      const projected = this.#linear(names.output).apply(g, this.#prepare(attention));
      hidden = g.node('Add', [hidden, projected]);
    }
    if (shape?.mlpWidth != null) {
      const x = this.#prepare(this.#norm(hidden, `${names.mlpNorm}.weight`));
      const gate = this.#linear(names.gate).apply(g, x);
      const up = this.#linear(names.up).applyUnscaled(g, x);
      // QuickGelu with alpha 1 is SiLU in one pass.
      const activated = g.node('Mul', [g.contrib('QuickGelu', [gate], { alpha: { float: 1 } }), up.rows]);
      const down = this.#linear(names.down).apply(g, this.#prepare(activated, up.rowScale));
      hidden = g.node('Add', [hidden, down]);
    }
    return hidden;
  }

  /**
   * Query, key and value rows of a layer, [M, (queryHeads + 2 kvHeads) * D], query and key after RoPE; null if the
   * layer has no attention.
   */
  open(layer: number, hidden: string): string | null {
    const g = this.#graph;
    const { config, layers } = this.#architecture;
    const attention = layers[layer]?.attention;
    if (attention == null) return null;
    const { queryHeads, kvHeads, headDim } = attention;
    const names = layerTensors(layer);
    const x = this.#prepare(this.#norm(hidden, `${names.attentionNorm}.weight`));
    const stacked = this.#linear(names.query, names.key, names.value).apply(g, x);
    const heads = queryHeads + kvHeads;
    const [rows = '', value = ''] = g.split(stacked, [heads * headDim, kvHeads * headDim], 1);
    const normed = config.family.headNorm ? this.#normHeads(rows, names, attention) : rows;
    if (layers[layer]?.rope !== true) return g.concat([normed, value], 1);
    const flat = g.reshape(normed, [1, -1, heads * headDim]);
    const offset = g.constant('int64', [0]);
    const rotated = g.contrib('RotaryEmbedding', [flat, offset, 'cos', 'sin'], {
      num_heads: heads,
      interleaved: 0,
    });
    return g.concat([g.reshape(rotated, [-1, heads * headDim]), value], 1);
  }

  #normHeads(rows: string, names: ReturnType<typeof layerTensors>, shape: AttentionShape): string {
    const g = this.#graph;
    const { queryHeads, kvHeads, headDim } = shape;
    const parts = g.split(rows, [queryHeads * headDim, kvHeads * headDim], 1);
    const normed = [names.queryNorm, names.keyNorm].map((tensor, i) => {
      const heads = g.reshape(parts[i] ?? '', [-1, i === 0 ? queryHeads : kvHeads, headDim]);
      return this.#norm(heads, `${tensor}.weight`);
    });
    return g.reshape(g.concat(normed, 1), [-1, (queryHeads + kvHeads) * headDim]);
  }

  logits(hidden: string): string {
    const { config } = this.#architecture;
    const head = this.#sources.linears.load(this.#graph, [headTensor(config)]);
    return head.apply(this.#graph, this.#prepare(this.#norm(hidden, FINAL_NORM)));
  }

  /** Both outputs of a run: hidden rows (logits at the end) and projected rows, null where there are none. */
  run(layer: number, attention: string): [string, string | null] {
    const { length } = this.#architecture.layers;
    const hidden = layer === 0 ? 'hidden' : this.finish(layer - 1, attention);
    this.#sources.onLayer(layer + 1, length + 1);
    return layer === length ? [this.logits(hidden), null] : [hidden, this.open(layer, hidden)];
  }
}

export const SIGNAL_OUTPUT = 'signal';

/** Names of a run's outputs: hidden rows (logits in the last run) and query, key and value rows. */
export function runOutputs(layer: number) {
  return { hidden: `run${layer}.hidden`, projected: `run${layer}.projected` };
}

/**
 * One `If` a run, side by side: each has outputs of its own, empty unless `layer` picks it. A tree of `If`s would
 * choose faster, but its weights would not be packed (see `GraphBuilder.weight`).
 */
function buildRun(
  graph: GraphBuilder,
  architecture: Architecture,
  sources: Sources,
  layer: number,
  condition: string,
  attention: string,
): void {
  const chosen = new GraphBuilder(graph);
  const skipped = new GraphBuilder(graph);
  const emitOutput = (branch: GraphBuilder, value: string): void => {
    branch.output(value, 'float', [graph.uniqueName('rows'), graph.uniqueName('width')]);
  };
  const empty = (branch: GraphBuilder): string => branch.initializer(new Float32Array(0), [0, 0]);
  for (const value of new LayerBuilder(chosen, architecture, sources).run(layer, attention)) {
    emitOutput(chosen, value === null ? empty(chosen) : chosen.produced(value));
    emitOutput(skipped, empty(skipped));
  }
  const { hidden, projected } = runOutputs(layer);
  graph.nodeTo([hidden, projected], 'If', [condition], { then_branch: chosen, else_branch: skipped });
  emitOutput(graph, hidden);
  emitOutput(graph, projected);
}

function declareInputs(graph: GraphBuilder, architecture: Architecture): void {
  const { config, layers } = architecture;
  const { headDim } = config;
  for (const name of ['layer', 'attention', 'signals']) graph.input(name, 'int64', []);
  graph.input('hidden', 'float', ['rows', config.hiddenSize]);
  graph.input('projected', 'float', ['projected_rows', 'projected_width']);
  graph.input('cos', 'float', ['rope_rows', headDim / 2]);
  graph.input('sin', 'float', ['rope_rows', headDim / 2]);
  const { heads, decode, tile } = cacheSlots(distinctShapes(layers));
  for (let slot = 0; slot < decode; slot++) {
    for (let head = 0; head < heads; head++) {
      const names = cacheInputs(slot, head);
      graph.input(names.keys, 'float', [`${names.keys}_length`, headDim]);
      graph.input(names.values, 'float', [`${names.values}_length`, headDim]);
      if (slot >= tile) continue;
      graph.input(names.tailKeys, 'float', [`${names.tailKeys}_length`, headDim]);
      graph.input(names.mask, 'float', [`${names.mask}_rows`, `${names.mask}_columns`]);
    }
  }
}

/** Builds the graph and writes its weights to `file`. @returns the serialised ONNX model */
export function buildModelGraph(architecture: Architecture, sources: Sources): Uint8Array {
  const graph = new GraphBuilder();
  declareInputs(graph, architecture);
  const { attention, signal } = buildAttention(graph, distinctShapes(architecture.layers));
  const runs = Array.from({ length: architecture.layers.length + 1 }, (_, layer) => layer);
  const isChosen = graph.node('Equal', ['layer', graph.constant('int64', runs)]);
  const conditions = graph.split(
    isChosen,
    runs.map(() => 1),
    0,
  );
  for (const layer of runs) buildRun(graph, architecture, sources, layer, conditions[layer] ?? '', attention);
  graph.nodeTo([SIGNAL_OUTPUT], 'Identity', [signal]);
  graph.output(SIGNAL_OUTPUT, 'float', ['signal_length']);
  return graph.toModel();
}
