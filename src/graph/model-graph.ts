/**
 * The graph of a whole model. One run finishes layer l - 1 (attention, output projection, MLP) and opens layer l
 * (norm, query / key / value, RoPE); the run after the last layer gives logits. Flags pick the run, and say what of it is
 * wanted: a block left out passes its rows on.
 */
import {
  type Architecture,
  type AttentionShape,
  FINAL_NORM,
  headTensor,
  layerTensors,
} from './architecture.ts';
import { buildAttention, cacheInputs, cacheSlots, HEAD_SCALE_INPUT } from './attention.ts';
import { distinctShapes } from './attention-variants.ts';
import type { Linear, Linears, ScaledRows } from './linear.ts';
import { choose, GraphBuilder } from './onnx.ts';
import type { Checkpoint } from './safetensors.ts';
import type { WeightFile } from './weight-file.ts';

/** Weights that are not linear layers. */
export interface Sources {
  readonly checkpoint: Checkpoint;
  readonly file: WeightFile;
  readonly linears: Linears;
  readonly onLayer: (done: number, total: number) => void;
}

/** Name of the input that says which run this is: true for one of all runs. */
export const RUNS_INPUT = 'runs';
/** Name of the input that says whether a run leaves out none of its parts, */
export const WHOLE_INPUT = 'whole';
/** and of those, one a part, that only a run reads which leaves out some. */
export const PART_INPUTS = { attention: 'has_attention', mlp: 'has_mlp', open: 'has_open' } as const;
type Part = keyof typeof PART_INPUTS;

/** What reads the sum of a block and its residual. */
interface Following {
  readonly part: Part;
  readonly norm: string;
}

interface Residual {
  /** [M, hidden] */
  readonly hidden: string;
  /** The same rows normed, or no rows; null = nothing reads them. */
  readonly normed: string | null;
}

function asOpening(norm: string | null): Following | null {
  return norm === null ? null : { part: 'open', norm };
}

/** Rows [M, hidden] from one of two ways, by whether the run has a part. */
function either(
  graph: GraphBuilder,
  part: Part,
  present: (graph: GraphBuilder) => string,
  absent: (graph: GraphBuilder) => string,
): string {
  const ways = [(g: GraphBuilder) => [present(g)], (g: GraphBuilder) => [absent(g)]] as const;
  return choose(graph, PART_INPUTS[part], ways, [{ name: 'rows', rank: 2 }])[0] ?? '';
}

class LayerBuilder {
  readonly #graph: GraphBuilder;
  readonly #architecture: Architecture;
  readonly #sources: Sources;
  readonly #vectors = new Map<string, string>();

  constructor(graph: GraphBuilder, architecture: Architecture, sources: Sources) {
    this.#graph = graph;
    this.#architecture = architecture;
    this.#sources = sources;
  }

  /** Read once, however many branches use it. */
  #vector(name: string): string {
    const known = this.#vectors.get(name);
    if (known !== undefined) return known;
    const { checkpoint, file } = this.#sources;
    const values = checkpoint.read(name);
    const vector = this.#graph.weight('vector', 'float', [values.length], file.append(values));
    this.#vectors.set(name, vector);
    return vector;
  }

  #norm(graph: GraphBuilder, x: string, tensor: string): string {
    const attributes = { epsilon: { float: this.#architecture.config.normEpsilon }, axis: -1 };
    return graph.node('SimplifiedLayerNormalization', [x, this.#vector(tensor)], attributes);
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

  /**
   * Attention output and MLP of a layer: hidden rows [M, hidden] -> hidden rows, and those normed with `next`, the norm
   * before what follows; null = nothing reads them.
   */
  #finish(layer: number, attention: string, next: string | null): Residual {
    const shape = this.#architecture.layers[layer];
    const names = layerTensors(layer);
    let residual: Residual = { hidden: 'hidden', normed: null };
    const hasMlp = shape?.mlpWidth != null;
    if (shape?.attention) {
      const output = this.#linear(names.output).apply(this.#graph, this.#prepare(attention));
      const following = hasMlp ? ({ part: 'mlp', norm: `${names.mlpNorm}.weight` } as const) : null;
      residual = this.#add('hidden', 'attention', output, following ?? asOpening(next));
    } else if (hasMlp) {
      residual = { hidden: 'hidden', normed: this.#normIf('mlp', 'hidden', `${names.mlpNorm}.weight`) };
    } else if (next !== null) return { hidden: 'hidden', normed: this.#normIf('open', 'hidden', next) };
    if (!hasMlp) return residual;
    return this.#add(residual.hidden, 'mlp', this.#mlp(names, residual.normed ?? ''), asOpening(next));
  }

  #mlp(names: ReturnType<typeof layerTensors>, normed: string): string {
    const g = this.#graph;
    const x = this.#prepare(normed);
    const gate = this.#linear(names.gate).apply(g, x);
    const up = this.#linear(names.up).applyUnscaled(g, x);
    // QuickGelu with alpha 1 is SiLU in one pass.
    const activated = g.node('Mul', [g.contrib('QuickGelu', [gate], { alpha: { float: 1 } }), up.rows]);
    return this.#linear(names.down).apply(g, this.#prepare(activated, up.rowScale));
  }

  /**
   * A block's end and the next one's beginning: hidden + block, and that normed. Where the run leaves the first out,
   * hidden stays; where it leaves the next one out, there are no normed rows, so that its products cost nothing.
   */
  #add(hidden: string, part: Part, block: string, following: Following | null): Residual {
    const sum = (g: GraphBuilder): string => g.node('Add', [hidden, block]);
    const sumIf = (g: GraphBuilder): string => either(g, part, sum, (sub) => sub.node('Identity', [hidden]));
    if (following === null) return { hidden: this.#ifWhole(sum, sumIf), normed: null };
    const whole = (g: GraphBuilder): string[] => {
      const value = sum(g);
      return [value, this.#norm(g, value, following.norm)];
    };
    const partial = (g: GraphBuilder): string[] => {
      const value = sumIf(g);
      return [value, this.#normPart(g, following.part, value, following.norm)];
    };
    const outputs = [
      { name: 'hidden', rank: 2 },
      { name: 'normed', rank: 2 },
    ];
    const [value = '', normed = ''] = choose(this.#graph, WHOLE_INPUT, [whole, partial], outputs);
    return { hidden: value, normed };
  }

  /** Normed rows, or none if the run leaves out the part that reads them. */
  #normIf(part: Part, x: string, tensor: string): string {
    const norm = (g: GraphBuilder): string => this.#norm(g, x, tensor);
    return this.#ifWhole(norm, (g) => this.#normPart(g, part, x, tensor));
  }

  #normPart(graph: GraphBuilder, part: Part, x: string, tensor: string): string {
    const none = (g: GraphBuilder): string =>
      g.constant('float', [], [0, this.#architecture.config.hiddenSize]);
    return either(graph, part, (g) => this.#norm(g, x, tensor), none);
  }

  /** One `If` where nothing is left out, which is nearly always: only other runs read which parts they have. */
  #ifWhole(whole: (graph: GraphBuilder) => string, partial: (graph: GraphBuilder) => string): string {
    const ways = [(g: GraphBuilder) => [whole(g)], (g: GraphBuilder) => [partial(g)]] as const;
    return choose(this.#graph, WHOLE_INPUT, ways, [{ name: 'rows', rank: 2 }])[0] ?? '';
  }

  /**
   * Query, key and value rows of a layer, [1, M, (queryHeads + 2 kvHeads) * D], query and key after RoPE; null if the
   * layer has no attention.
   */
  #open(layer: number, normed: string): string | null {
    const g = this.#graph;
    const { config, layers } = this.#architecture;
    const attention = layers[layer]?.attention;
    if (attention == null) return null;
    const { queryHeads, kvHeads, headDim } = attention;
    const names = layerTensors(layer);
    const linear = this.#linear(names.query, names.key, names.value).apply(g, this.#prepare(normed));
    const heads = queryHeads + kvHeads;
    // Three dimensions, as RotaryEmbedding wants them.
    const stacked = g.reshape(linear, [1, -1, (heads + kvHeads) * headDim]);
    const [rows = '', value = ''] = g.split(stacked, [heads * headDim, kvHeads * headDim], 2);
    const headNormed = config.family.headNorm ? this.#normHeads(rows, names, attention) : rows;
    if (layers[layer]?.rope !== true) return g.concat([headNormed, value], 2);
    const offset = g.constant('int64', [0]);
    const rotated = g.contrib('RotaryEmbedding', [headNormed, offset, 'cos', 'sin'], {
      num_heads: heads,
      interleaved: 0,
    });
    return g.concat([rotated, value], 2);
  }

  #normHeads(rows: string, names: ReturnType<typeof layerTensors>, shape: AttentionShape): string {
    const g = this.#graph;
    const { queryHeads, kvHeads, headDim } = shape;
    const parts = g.split(rows, [queryHeads * headDim, kvHeads * headDim], 2);
    const normed = [names.queryNorm, names.keyNorm].map((tensor, i) => {
      const heads = g.reshape(parts[i] ?? '', [-1, i === 0 ? queryHeads : kvHeads, headDim]);
      return this.#norm(g, heads, `${tensor}.weight`);
    });
    return g.reshape(g.concat(normed, 1), [1, -1, (queryHeads + kvHeads) * headDim]);
  }

  /**
   * Both outputs of a run: hidden rows and projected rows, null where there are none; of the last run logits and hidden
   * rows.
   */
  run(layer: number, attention: string): [string, string | null] {
    const { config, layers } = this.#architecture;
    const isLast = layer === layers.length;
    const { attentionNorm } = layerTensors(layer);
    const norm = isLast ? FINAL_NORM : layers[layer]?.attention ? `${attentionNorm}.weight` : null;
    const { hidden, normed } =
      layer === 0
        ? { hidden: 'hidden', normed: norm === null ? null : this.#norm(this.#graph, 'hidden', norm) }
        : this.#finish(layer - 1, attention, norm);
    this.#sources.onLayer(layer + 1, layers.length + 1);
    if (normed === null) return [hidden, null];
    if (!isLast) return [hidden, this.#open(layer, normed)];
    const head = this.#sources.linears.load(this.#graph, [headTensor(config)]);
    return [head.apply(this.#graph, this.#prepare(normed)), hidden];
  }
}

export const SIGNAL_OUTPUT = 'signal';

/**
 * Names of a run's outputs: hidden rows and query, key and value rows. In the last run logits stand in the place of the
 * first and hidden rows in the place of the second.
 */
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
  const values = new LayerBuilder(chosen, architecture, sources).run(layer, attention);
  const { hidden, projected } = runOutputs(layer);
  const outputs = [
    { name: hidden, rank: 2 },
    // Projected rows have a dimension in front, of size 1.
    { name: projected, rank: layer === architecture.layers.length ? 2 : 3 },
  ];
  outputs.forEach(({ name, rank }, i) => {
    const dims = (): string[] => Array.from({ length: rank }, () => graph.uniqueName('dim'));
    const empty = (branch: GraphBuilder): string =>
      branch.initializer(new Float32Array(0), Array<number>(rank).fill(0));
    const value = values[i] ?? null;
    chosen.output(value === null ? empty(chosen) : chosen.produced(value), 'float', dims());
    skipped.output(empty(skipped), 'float', dims());
    graph.output(name, 'float', dims());
  });
  graph.nodeTo([hidden, projected], 'If', [condition], { then_branch: chosen, else_branch: skipped });
}

function declareInputs(graph: GraphBuilder, architecture: Architecture): void {
  const { config, layers } = architecture;
  const { headDim } = config;
  graph.input(RUNS_INPUT, 'bool', [layers.length + 1]);
  graph.input('attention', 'int64', []);
  graph.input(WHOLE_INPUT, 'bool', [1]);
  for (const name of Object.values(PART_INPUTS)) graph.input(name, 'bool', [1]);
  graph.input(HEAD_SCALE_INPUT, 'float', ['head_scale_length']);
  graph.input('hidden', 'float', ['rows', config.hiddenSize]);
  graph.input('projected', 'float', ['projected_rows', 'projected_width']);
  graph.input('cos', 'float', ['rope_rows', headDim / 2]);
  graph.input('sin', 'float', ['rope_rows', headDim / 2]);
  const { heads, slots } = cacheSlots(distinctShapes(layers));
  for (let slot = 0; slot < slots; slot++) {
    for (let head = 0; head < heads; head++) {
      const names = cacheInputs(slot, head);
      graph.input(names.keys, 'float', [`${names.keys}_length`, headDim]);
      graph.input(names.values, 'float', [`${names.values}_length`, headDim]);
      if (slot > 0) continue;
      graph.input(names.mask, 'float', [`${names.mask}_rows`, `${names.mask}_columns`]);
      graph.input(names.maskedFrom, 'int64', [1]);
      graph.input(names.maskedWhole, 'bool', [1]);
    }
  }
}

/** Builds the graph and writes its weights to `file`. @returns the serialised ONNX model */
export function buildModelGraph(architecture: Architecture, sources: Sources): Uint8Array {
  const graph = new GraphBuilder();
  declareInputs(graph, architecture);
  const { attention, signal } = buildAttention(graph, distinctShapes(architecture.layers));
  const runs = Array.from({ length: architecture.layers.length + 1 }, (_, layer) => layer);
  const conditions = graph.split(
    RUNS_INPUT,
    runs.map(() => 1),
    0,
  );
  for (const layer of runs) buildRun(graph, architecture, sources, layer, conditions[layer] ?? '', attention);
  graph.nodeTo([SIGNAL_OUTPUT], 'Identity', [signal]);
  graph.output(SIGNAL_OUTPUT, 'float', ['signal_length']);
  return graph.toModel();
}
