/**
 * Attention sub-graphs. They hold no weights, so all layers share them; a scalar picks the one that a run needs:
 * decode (`slots` sequences with one row each) or a tile (many consecutive rows of one sequence).
 */
import type { AttentionShape } from './architecture.ts';
import {
  type AttentionVariant,
  attentionVariants,
  decodeSizes,
  type Signal,
  weightOf,
} from './attention-variants.ts';
import { type Case, choose, type GraphBuilder, select } from './onnx.ts';

/** KV heads that the graph has cache inputs for, and in how many slots. A tile takes the first. */
export function cacheSlots(shapes: readonly AttentionShape[]): { heads: number; slots: number } {
  const heads = Math.max(0, ...shapes.map((shape) => shape.kvHeads));
  return { heads, slots: Math.max(...decodeSizes(shapes)) };
}

/** Name of the input [queryHeads] that `scaledTile` reads. */
export const HEAD_SCALE_INPUT = 'head_scale';

/** Names of the cache inputs of KV head `head` in slot `slot`; lengths are free and may differ between heads. */
export function cacheInputs(slot: number, head: number) {
  const at = `${slot}_${head}`;
  return {
    /** [entries, headDim] */
    keys: `keys_${at}`,
    /** [entries, headDim] */
    values: `values_${at}`,
    /** Tile only, [rows, columns]: added to the scores of the last entries, 0 or a large negative number. */
    mask: `mask_${at}`,
    /** Tile only, [1] int64: the first entry that the mask is for. */
    maskedFrom: `masked_from_${at}`,
    /** Tile only, [1] bool: whether the mask is for all entries. */
    maskedWhole: `masked_whole_${at}`,
  };
}

function scores(graph: GraphBuilder, query: string, keys: string, headDim: number): string {
  const attributes = { transA: 0, transB: 1, alpha: { float: 1 / Math.sqrt(headDim) } };
  return graph.contrib('FusedMatMul', [query, keys], attributes);
}

interface SignalSources {
  /** Of each KV head: decode [group, entries], tile [group, rows, entries]. */
  readonly probabilities: readonly string[];
  /** [rows, queryHeads * headDim] */
  readonly attention: string;
  readonly shape: AttentionShape;
}

/** Ones, [1, number of `rows`]. */
function onesFor(graph: GraphBuilder, rows: string): string {
  const numRows = graph.node('Shape', [rows], { start: 0, end: 1 });
  const shape = graph.concat([graph.constant('int64', [1]), numRows], 0);
  return graph.node('Expand', [graph.constant('float', [1], [1, 1]), shape]);
}

function lastRow(graph: GraphBuilder, value: string): string {
  const [start, end] = [graph.constant('int64', [-1]), graph.constant('int64', [Number.MAX_SAFE_INTEGER])];
  return graph.node('Slice', [value, start, end, graph.constant('int64', [1])]);
}

function magnitudes(graph: GraphBuilder, attention: string, { queryHeads, headDim }: AttentionShape): string {
  const heads = graph.reshape(graph.node('Abs', [attention]), [-1, queryHeads, headDim]);
  return graph.node('ReduceSum', [heads, graph.constant('int64', [0, 2])], { keepdims: 0 });
}

/** The signal of all heads as one vector. */
function signalOutput(
  g: GraphBuilder,
  { probabilities, attention, shape }: SignalSources,
  { kind, signal }: { readonly kind: AttentionVariant['kind']; readonly signal: Signal },
): string {
  if (signal === 'none') return g.constant('float', [], [0]);
  const join = (reduce: (value: string) => string, ...more: string[]): string =>
    g.concat([...probabilities.map((p) => g.reshape(reduce(p), [-1])), ...more], 0);
  if (kind === 'decode') return join((p) => p);
  if (signal === 'lastQuery') return join((p) => lastRow(g, p));
  if (signal === 'columnMaxima')
    return join((p) => g.node('ReduceMax', [p, g.constant('int64', [1])], { keepdims: 0 }));
  // A product with a row of ones takes a fraction of the time of ReduceSum over a middle axis.
  const ones = onesFor(g, attention);
  return join((p) => g.node('MatMul', [ones, p]), magnitudes(g, attention, shape));
}

/** The query columns of `projected`: [M, queryHeads * headDim]. */
function queryRows(graph: GraphBuilder, { queryHeads, kvHeads, headDim }: AttentionShape): string {
  return graph.split('projected', [queryHeads * headDim, 2 * kvHeads * headDim], 1)[0] ?? '';
}

/** What scores [., entries] take of `values`, and their probabilities. */
function attend(
  graph: GraphBuilder,
  all: string,
  values: string,
): [attention: string, probabilities: string] {
  const p = graph.node('Softmax', [all], { axis: -1 });
  return [graph.node('MatMul', [p, values]), p];
}

/**
 * Scores [group, entries] of one row. Keys times queries is the faster product, since it reads the keys as they lie; but
 * among several slots, whose contexts are shorter, the transposition costs more than that saves.
 */
function rowScores(
  graph: GraphBuilder,
  query: string,
  keys: string,
  { headDim }: AttentionShape,
  slots: number,
): string {
  if (slots > 1) return scores(graph, query, keys, headDim);
  return graph.node('Transpose', [scores(graph, keys, query, headDim)], { perm: [1, 0] });
}

/** Attention of one KV head for one row of a decode run with so many slots: query [group, D] -> [group, D]. */
export function rowAttention(
  graph: GraphBuilder,
  query: string,
  { keys, values }: { readonly keys: string; readonly values: string },
  shape: AttentionShape,
  slots: number,
): [attention: string, probabilities: string] {
  return attend(graph, rowScores(graph, query, keys, shape, slots), values);
}

type DecodeVariant = Extract<AttentionVariant, { readonly kind: 'decode' }>;
type TileVariant = Extract<AttentionVariant, { readonly kind: 'tile' | 'scaledTile' }>;

/** Query rows [slots, queryHeads * headDim] -> attention of the same shape. */
function decodeCase(graph: GraphBuilder, variant: DecodeVariant): string[] {
  const { shape, slots } = variant;
  const { queryHeads, kvHeads, headDim } = shape;
  const group = queryHeads / kvHeads;
  // Of each slot the query rows of each KV head, and behind them its keys and values.
  const sizes = [...Array<number>(kvHeads).fill(group), 2 * kvHeads];
  const parts = graph.split(
    graph.reshape('projected', [-1, headDim]),
    Array.from({ length: slots }, () => sizes).flat(),
    0,
  );
  const probabilities: string[] = [];
  const outputs = parts.flatMap((query, i) => {
    const head = i % (kvHeads + 1);
    if (head === kvHeads) return [];
    const names = cacheInputs(Math.floor(i / (kvHeads + 1)), head);
    const [attended, p] = rowAttention(graph, query, names, shape, slots);
    probabilities.push(p);
    return attended;
  });
  const attention = graph.reshape(graph.concat(outputs, 0), [-1, queryHeads * headDim]);
  return [attention, signalOutput(graph, { probabilities, attention, shape }, variant)];
}

/**
 * Adds a head's mask to the last columns of its scores [group, M, entries]. TensorScatter writes into the scores
 * themselves, as does the softmax behind it, since their shapes are known to be the same: adding a mask over the whole
 * width, or a copy that puts both parts together, costs a tenth to a quarter of the attention.
 */
function masked(
  graph: GraphBuilder,
  all: string,
  { mask, maskedFrom }: ReturnType<typeof cacheInputs>,
  group: number,
): string {
  const end = graph.constant('int64', [Number.MAX_SAFE_INTEGER]);
  const tail = graph.node('Slice', [all, maskedFrom, end, graph.constant('int64', [2])]);
  const starts = graph.node('Expand', [maskedFrom, graph.constant('int64', [group])]);
  return graph.node('TensorScatter', [all, graph.node('Add', [tail, mask]), starts], { axis: 2 });
}

/**
 * Attention of one KV head, [group, M, D], and its probabilities if they are wanted: what leaves a branch cannot be
 * written in place. A mask for the last columns is added to those alone, one for all columns to all of them: taking
 * a part out and putting it back costs more than adding to the rest, where that is as little as a streaming head's sinks.
 */
function tileHead(
  graph: GraphBuilder,
  query: string,
  names: ReturnType<typeof cacheInputs>,
  {
    headDim,
    group,
    isHeard,
  }: { readonly headDim: number; readonly group: number; readonly isHeard: boolean },
): string[] {
  const numOutputs = isHeard ? 2 : 1;
  const way =
    (hide: (g: GraphBuilder, all: string) => string) =>
    (g: GraphBuilder): string[] =>
      attend(g, hide(g, scores(g, query, names.keys, headDim)), names.values).slice(0, numOutputs);
  const ways = [
    way((g, all) => g.node('Add', [all, names.mask])),
    way((g, all) => masked(g, all, names, group)),
  ] as const;
  const outputs = ['attended', 'probabilities'].map((name) => ({ name, rank: 3 }));
  return choose(graph, names.maskedWhole, ways, outputs.slice(0, numOutputs));
}

/** Query rows [M, queryHeads * headDim] -> attention of the same shape. */
function tileCase(graph: GraphBuilder, variant: TileVariant): string[] {
  const { shape } = variant;
  const { queryHeads, kvHeads, headDim } = shape;
  const group = queryHeads / kvHeads;
  // [M, queryHeads, D] -> [queryHeads, M, D] -> one [group, M, D] per KV head
  const rows = graph.reshape(queryRows(graph, shape), [-1, queryHeads, headDim]);
  const byHead = graph.node('Transpose', [rows], { perm: [1, 0, 2] });
  const probabilities: string[] = [];
  const outputs = graph.split(byHead, Array<number>(kvHeads).fill(group), 0).map((part, j) => {
    const query = graph.shaped(part, 'float', [group, 'tile_rows', headDim]);
    const isHeard = variant.signal !== 'none';
    const [attended = '', p] = tileHead(graph, query, cacheInputs(0, j), { headDim, group, isHeard });
    if (p !== undefined) probabilities.push(p);
    return attended;
  });
  const merged = graph.concat(outputs, 0);
  const scale = (): string => graph.reshape(HEAD_SCALE_INPUT, [queryHeads, 1, 1]);
  const scaled = variant.kind === 'scaledTile' ? graph.node('Mul', [merged, scale()]) : merged;
  const attention = graph.reshape(graph.node('Transpose', [scaled], { perm: [1, 0, 2] }), [
    -1,
    queryHeads * headDim,
  ]);
  return [attention, signalOutput(graph, { probabilities, attention, shape }, variant)];
}

/** No rows: nothing is added to the residual, and no product with them costs anything. */
function skipCase(graph: GraphBuilder, { queryHeads, headDim }: AttentionShape): string[] {
  return [graph.constant('float', [], [0, queryHeads * headDim]), graph.constant('float', [], [0])];
}

function build(graph: GraphBuilder, variant: AttentionVariant): string[] {
  switch (variant.kind) {
    case 'none':
      return [graph.constant('float', [], [0, 0]), graph.constant('float', [], [0])];
    case 'skip':
      return skipCase(graph, variant.shape);
    case 'decode':
      return decodeCase(graph, variant);
    case 'tile':
    case 'scaledTile':
      return tileCase(graph, variant);
  }
}

/** Adds the tree of all attention variants; the scalar input `attention` chooses. */
export function buildAttention(
  graph: GraphBuilder,
  shapes: readonly AttentionShape[],
): { attention: string; signal: string } {
  const cases = attentionVariants(shapes).map((variant, key): Case => ({
    key,
    weight: weightOf(variant),
    build: (g) => build(g, variant),
  }));
  const outputs = [
    { name: 'attention', rank: 2 },
    { name: 'signal', rank: 1 },
  ];
  const [attention = '', signal = ''] = select(graph, 'attention', cases, outputs);
  return { attention, signal };
}
