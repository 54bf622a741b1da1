/**
 * The graph of a whole model. One run finishes layer l - 1 (attention, output projection, MLP) and opens layer l
 * (norm, query / key / value, RoPE); the run after the last layer gives logits. A scalar `layer` picks the run.
 */
import { type Architecture, FINAL_NORM, headTensor, layerTensors } from './architecture.ts';
import { buildAttention, cacheInputs, cacheSlots, distinctShapes } from './attention.ts';
import type { Activation, Linear, Linears } from './linear.ts';
import { type Case, GraphBuilder, select } from './onnx.ts';
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

  #prepare(x: string): Activation {
    return this.#sources.linears.prepare(this.#graph, x);
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
      const both = this.#linear(names.gate, names.up).apply(g, x);
      const [gate = '', up = ''] = g.split(both, [shape.mlpWidth, shape.mlpWidth], 1);
      // QuickGelu with alpha 1 is SiLU in one pass.
      const activated = g.node('Mul', [g.contrib('QuickGelu', [gate], { alpha: { float: 1 } }), up]);
      hidden = g.node('Add', [hidden, this.#linear(names.down).apply(g, this.#prepare(activated))]);
    }
    return hidden;
  }

  /** Query [M, queryHeads * D], key and value [kvHeads, M, D] of a layer; empty if it has no attention. */
  open(layer: number, hidden: string): string[] {
    const g = this.#graph;
    const { config, layers } = this.#architecture;
    const attention = layers[layer]?.attention;
    if (attention == null) return this.#nothing();
    const { queryHeads, kvHeads, headDim } = attention;
    const names = layerTensors(layer);
    const x = this.#prepare(this.#norm(hidden, `${names.attentionNorm}.weight`));
    const stacked = this.#linear(names.query, names.key, names.value).apply(g, x);
    const [query = '', key = '', value = ''] = g.split(
      stacked,
      [queryHeads * headDim, kvHeads * headDim, kvHeads * headDim],
      1,
    );
    const rotated = (rows: string, heads: number, normTensor: string): string => {
      let y = rows;
      if (config.family.headNorm) y = this.#norm(g.reshape(y, [-1, heads, headDim]), `${normTensor}.weight`);
      if (!layers[layer]?.rope) return y;
      const flat = g.reshape(y, [1, -1, heads * headDim]);
      const offset = g.constant('int64', [0]);
      return g.contrib('RotaryEmbedding', [flat, offset, 'cos', 'sin'], { num_heads: heads, interleaved: 0 });
    };
    const perHead = (rows: string): string =>
      g.node('Transpose', [g.reshape(rows, [-1, kvHeads, headDim])], { perm: [1, 0, 2] });
    return [
      g.reshape(rotated(query, queryHeads, names.queryNorm), [-1, queryHeads * headDim]),
      perHead(rotated(key, kvHeads, names.keyNorm)),
      perHead(value),
    ];
  }

  logits(hidden: string): string {
    const { config } = this.#architecture;
    const head = this.#sources.linears.load(this.#graph, [headTensor(config)]);
    return head.apply(this.#graph, this.#prepare(this.#norm(hidden, FINAL_NORM)));
  }

  #nothing(): string[] {
    const g = this.#graph;
    return [
      g.constant('float', [], [0, 0]),
      g.constant('float', [], [0, 0, 0]),
      g.constant('float', [], [0, 0, 0]),
    ];
  }

  run(layer: number, attention: string): string[] {
    const { length } = this.#architecture.layers;
    const hidden = layer === 0 ? 'hidden' : this.finish(layer - 1, attention);
    this.#sources.onLayer(layer + 1, length + 1);
    return layer === length
      ? [this.logits(hidden), ...this.#nothing()]
      : [hidden, ...this.open(layer, hidden)];
  }
}

/** Every input has to be fed in every run: onnxruntime-node knows no optional ones. */
function declareInputs(graph: GraphBuilder, architecture: Architecture): void {
  const { config, layers } = architecture;
  const { headDim } = config;
  for (const name of ['layer', 'attention', 'signals']) graph.input(name, 'int64', []);
  graph.input('hidden', 'float', ['rows', config.hiddenSize]);
  graph.input('query', 'float', ['query_rows', 'query_width']);
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

/**
 * Builds the graph and writes its weights to `file`.
 * @returns the serialised ONNX model; its outputs are, in order: hidden rows (logits in the last run), query, key,
 *   value, signal
 */
export function buildModelGraph(architecture: Architecture, sources: Sources): Uint8Array {
  const graph = new GraphBuilder();
  declareInputs(graph, architecture);
  const { attention, signal } = buildAttention(graph, distinctShapes(architecture.layers));
  const runs = Array.from({ length: architecture.layers.length + 1 }, (_, layer): Case => ({
    key: layer,
    build: (g) => new LayerBuilder(g, architecture, sources).run(layer, attention),
  }));
  const outputs = [
    { name: 'hidden_out', rank: 2 },
    { name: 'query_out', rank: 2 },
    { name: 'key_out', rank: 3 },
    { name: 'value_out', rank: 3 },
  ];
  const names = select(graph, 'layer', runs, outputs);
  outputs.forEach(({ rank }, i) => {
    graph.output(
      names[i] ?? '',
      'float',
      Array.from({ length: rank }, () => graph.uniqueName('dim')),
    );
  });
  graph.output(signal, 'float', [graph.uniqueName('dim')]);
  return graph.toModel();
}
