/**
 * Attention sub-graphs. They hold no weights, so all layers share them; a scalar picks the one that a run needs:
 * decode (`slots` sequences with one row each) or a tile (many consecutive rows of one sequence).
 */
import type { AttentionShape } from './architecture.ts';
import { type Case, type GraphBuilder, select } from './onnx.ts';

/** Bounds the inputs and nodes of the decode graphs: models with many KV heads get fewer slots. */
const MAX_CACHED_HEADS = 128;

/** Numbers of sequences whose rows a tile can hold, the same number of rows each. */
const TILE_SLOTS = [1];

/**
 * Numbers of sequences that one decode run can advance, ascending; a step takes the smallest that fits and pads with
 * empty slots.
 */
export function decodeSizes(shapes: readonly AttentionShape[]): number[] {
  const kvHeads = Math.max(1, ...shapes.map((shape) => shape.kvHeads));
  return [1, 2, 3, 4, 6, 8, 12, 16].filter((slots) => slots === 1 || slots * kvHeads <= MAX_CACHED_HEADS);
}

/** KV heads that the graph has cache inputs for, and in which slots: `tile` inputs exist for the first slots only. */
export function cacheSlots(shapes: readonly AttentionShape[]): {
  heads: number;
  decode: number;
  tile: number;
} {
  const heads = Math.max(0, ...shapes.map((shape) => shape.kvHeads));
  return { heads, decode: Math.max(...decodeSizes(shapes), ...TILE_SLOTS), tile: Math.max(...TILE_SLOTS) };
}

/**
 * What a run reports about its attention, beside the attention itself: the probabilities of the last row, or their sums
 * or maxima over all rows, [heads, entries] of each KV head behind each other; behind the sums, the L1 magnitude of
 * each query head's output, summed over all rows.
 */
export const SIGNALS = { none: 0, lastQuery: 1, columnSums: 2, columnMaxima: 3 } as const;
export type Signal = keyof typeof SIGNALS;

/**
 * Which attention a run uses: `none` for the run that opens layer 0, or after a layer without attention; `skip` where the
 * layer has one that is left out; `scaledTile` multiplies each query head's output by a factor.
 */
export type AttentionVariant =
  | { readonly kind: 'none' }
  | { readonly kind: 'skip' | 'scaledTile'; readonly shape: AttentionShape }
  | { readonly kind: 'decode'; readonly slots: number; readonly shape: AttentionShape }
  | { readonly kind: 'tile'; readonly slots: number; readonly shape: AttentionShape };

/** Name of the input [queryHeads] that `scaledTile` reads. */
export const HEAD_SCALE_INPUT = 'head_scale';

/** Names of the cache inputs of KV head `head` in slot `slot`; lengths are free and may differ between heads. */
export function cacheInputs(slot: number, head: number) {
  const at = `${slot}_${head}`;
  return {
    /** [entries, headDim]; in a tile only the entries that every row sees. */
    keys: `keys_${at}`,
    /** Tile only, [columns, headDim]: the entries that some rows must not see. */
    tailKeys: `tail_keys_${at}`,
    /** [entries + columns, headDim] */
    values: `values_${at}`,
    /** Tile only, [rows of this slot, columns]: added to the scores of the tail, 0 or a large negative number. */
    mask: `mask_${at}`,
  };
}

/** Distinct attention shapes of a model, in order of appearance: structurally pruned models have several. */
export function distinctShapes(
  layers: readonly { readonly attention: AttentionShape | null }[],
): AttentionShape[] {
  const shapes = layers.flatMap((layer) => (layer.attention === null ? [] : [layer.attention]));
  return shapes.filter((shape, i) => shapes.findIndex((other) => sameShape(shape, other)) === i);
}

function sameShape(a: AttentionShape, b: AttentionShape): boolean {
  return a.queryHeads === b.queryHeads && a.kvHeads === b.kvHeads && a.headDim === b.headDim;
}

/** Variants of one shape that decode steps and unpruned prompts use. */
function numCommon(shapes: readonly AttentionShape[]): number {
  return decodeSizes(shapes).length + TILE_SLOTS.length;
}

/**
 * The value of the graph's `attention` scalar for a variant: first the common ones of all shapes, so that they lie next
 * to the root of the tree, then those that few runs use.
 */
export function attentionCode(shapes: readonly AttentionShape[], variant: AttentionVariant): number {
  const common = numCommon(shapes);
  const none = shapes.length * common;
  if (variant.kind === 'none') return none;
  const shapeIndex = shapes.findIndex((shape) => sameShape(shape, variant.shape));
  switch (variant.kind) {
    case 'skip':
      return none + 1 + 2 * shapeIndex;
    case 'scaledTile':
      return none + 2 + 2 * shapeIndex;
    case 'decode':
      return shapeIndex * common + decodeSizes(shapes).indexOf(variant.slots);
    case 'tile':
      return shapeIndex * common + decodeSizes(shapes).length + TILE_SLOTS.indexOf(variant.slots);
  }
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

/** One vector of the signals of all heads, computed only if the `signals` scalar asks. */
function signalOutput(
  graph: GraphBuilder,
  { probabilities, attention, shape }: SignalSources,
  kind: 'decode' | 'tile',
): string {
  const flatten = (g: GraphBuilder, reduce: (value: string) => string): string[] =>
    probabilities.map((p) => g.reshape(reduce(p), [-1]));
  const lastRow = (g: GraphBuilder, value: string): string => {
    const [start, end] = [g.constant('int64', [-1]), g.constant('int64', [Number.MAX_SAFE_INTEGER])];
    return g.node('Slice', [value, start, end, g.constant('int64', [1])]);
  };
  const magnitudes = (g: GraphBuilder): string => {
    const heads = g.reshape(g.node('Abs', [attention]), [-1, shape.queryHeads, shape.headDim]);
    return g.node('ReduceSum', [heads, g.constant('int64', [0, 2])], { keepdims: 0 });
  };
  const cases: Case[] = [{ key: SIGNALS.none, build: (g) => [g.constant('float', [], [0])] }];
  // Fewer cases make a shallower tree, which every decode step of every layer descends.
  if (kind === 'decode')
    cases.push({
      key: SIGNALS.lastQuery,
      build: (g) => [
        g.concat(
          flatten(g, (p) => p),
          0,
        ),
      ],
    });
  else {
    const maxima = (g: GraphBuilder): string[] =>
      flatten(g, (p) => g.node('ReduceMax', [p, g.constant('int64', [1])], { keepdims: 0 }));
    // A product with a row of ones takes a fraction of the time of ReduceSum over a middle axis.
    const sums = (g: GraphBuilder): string[] => {
      const numRows = g.node('Shape', [attention], { start: 0, end: 1 });
      const shape = g.concat([g.constant('int64', [1]), numRows], 0);
      const ones = g.node('Expand', [g.constant('float', [1], [1, 1]), shape]);
      return flatten(g, (p) => g.node('MatMul', [ones, p]));
    };
    cases.push(
      {
        key: SIGNALS.lastQuery,
        build: (g) => [
          g.concat(
            flatten(g, (p) => lastRow(g, p)),
            0,
          ),
        ],
      },
      { key: SIGNALS.columnSums, build: (g) => [g.concat([...sums(g), magnitudes(g)], 0)] },
      { key: SIGNALS.columnMaxima, build: (g) => [g.concat(maxima(g), 0)] },
    );
  }
  return select(graph, 'signals', cases, [{ name: 'signal', rank: 1 }])[0] ?? '';
}

/** The query columns of `projected`: [M, queryHeads * headDim]. */
function queryRows(graph: GraphBuilder, { queryHeads, kvHeads, headDim }: AttentionShape): string {
  return graph.split('projected', [queryHeads * headDim, 2 * kvHeads * headDim], 1)[0] ?? '';
}

/** Query rows [slots, queryHeads * headDim] -> attention of the same shape. */
function decodeCase(graph: GraphBuilder, shape: AttentionShape, slots: number): string[] {
  const { queryHeads, kvHeads, headDim } = shape;
  const group = queryHeads / kvHeads;
  const heads = graph.split(
    graph.reshape(queryRows(graph, shape), [-1, headDim]),
    Array<number>(slots * kvHeads).fill(group),
    0,
  );
  const probabilities: string[] = [];
  const outputs = heads.map((query, i) => {
    const names = cacheInputs(Math.floor(i / kvHeads), i % kvHeads);
    const p = graph.node('Softmax', [scores(graph, query, names.keys, headDim)], { axis: -1 });
    probabilities.push(p);
    return graph.node('MatMul', [p, names.values]);
  });
  const attention = graph.reshape(graph.concat(outputs, 0), [-1, queryHeads * headDim]);
  return [attention, signalOutput(graph, { probabilities, attention, shape }, 'decode')];
}

/**
 * Query rows [slots * R, queryHeads * headDim] -> attention of the same shape. Only the tail columns are masked: adding
 * a mask over the whole width costs a tenth to a quarter of the attention.
 */
function tileCase(graph: GraphBuilder, shape: AttentionShape, slots: number, isScaled: boolean): string[] {
  const { queryHeads, kvHeads, headDim } = shape;
  const group = queryHeads / kvHeads;
  // [slots, R, queryHeads, D] -> [slots, queryHeads, R, D] -> one [1, group, R, D] per slot and KV head
  const rows = graph.reshape(queryRows(graph, shape), [slots, -1, queryHeads, headDim]);
  const byHead = graph.node('Transpose', [rows], { perm: [0, 2, 1, 3] });
  const probabilities: string[] = [];
  const outputs = graph.split(byHead, Array<number>(slots).fill(1), 0).flatMap((slotRows, slot) => {
    const heads = graph.split(slotRows, Array<number>(kvHeads).fill(group), 1);
    return heads.map((head, j) => {
      const names = cacheInputs(slot, j);
      const query = graph.node('Squeeze', [head, graph.constant('int64', [0])]);
      const tail = graph.node('Add', [scores(graph, query, names.tailKeys, headDim), names.mask]);
      const all = graph.concat([scores(graph, query, names.keys, headDim), tail], 2);
      const p = graph.node('Softmax', [all], { axis: -1 });
      probabilities.push(p);
      return graph.node('MatMul', [p, names.values]);
    });
  });
  const merged = graph.reshape(graph.concat(outputs, 0), [slots, queryHeads, -1, headDim]);
  const scale = (): string => graph.reshape(HEAD_SCALE_INPUT, [1, queryHeads, 1, 1]);
  const scaled = isScaled ? graph.node('Mul', [merged, scale()]) : merged;
  const attention = graph.reshape(graph.node('Transpose', [scaled], { perm: [0, 2, 1, 3] }), [
    -1,
    queryHeads * headDim,
  ]);
  return [attention, signalOutput(graph, { probabilities, attention, shape }, 'tile')];
}

/** No rows: nothing is added to the residual, and no product with them costs anything. */
function skipCase(graph: GraphBuilder, { queryHeads, headDim }: AttentionShape): string[] {
  return [graph.constant('float', [], [0, queryHeads * headDim]), graph.constant('float', [], [0])];
}

/** Adds the tree of all attention variants; the scalar inputs `attention` and `signals` choose. */
export function buildAttention(
  graph: GraphBuilder,
  shapes: readonly AttentionShape[],
): { attention: string; signal: string } {
  const common = shapes.flatMap((shape): Case[] => [
    ...decodeSizes(shapes).map((slots) => ({
      key: attentionCode(shapes, { kind: 'decode', slots, shape }),
      build: (g: GraphBuilder) => decodeCase(g, shape, slots),
    })),
    ...TILE_SLOTS.map((slots) => ({
      key: attentionCode(shapes, { kind: 'tile', slots, shape }),
      build: (g: GraphBuilder) => tileCase(g, shape, slots, false),
    })),
  ]);
  const none: Case = {
    key: attentionCode(shapes, { kind: 'none' }),
    build: (g) => [g.constant('float', [], [0, 0]), g.constant('float', [], [0])],
  };
  const rare = shapes.flatMap((shape): Case[] => [
    { key: attentionCode(shapes, { kind: 'skip', shape }), build: (g: GraphBuilder) => skipCase(g, shape) },
    {
      key: attentionCode(shapes, { kind: 'scaledTile', shape }),
      build: (g: GraphBuilder) => tileCase(g, shape, 1, true),
    },
  ]);
  const outputs = [
    { name: 'attention', rank: 2 },
    { name: 'signal', rank: 1 },
  ];
  const others: Case = { ...none, build: (g) => select(g, 'attention', [none, ...rare], outputs) };
  const [attention = '', signal = ''] = select(graph, 'attention', [...common, others], outputs);
  return { attention, signal };
}
