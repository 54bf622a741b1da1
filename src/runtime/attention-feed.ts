/** Moves keys and values between runs and caches, and picks what each row may see. Slots of these caches are positions. */
import { invariant } from '../errors.ts';
import type { AttentionFeed, HeadView, TileHeadView } from '../graph/session.ts';
import type { SequenceCache } from '../kv/sequence-cache.ts';
import type { Model } from './model.ts';

/** Added to the score of an entry that a row must not see. */
export const HIDDEN = -1e30;

/** Rows of a decode run: the sequences that it advances, padded to the next number of slots there is. */
export function decodeSlots(model: Model, numSequences: number): number {
  const slots = model.session.decodeSizes.find((size) => size >= numSequences);
  invariant(slots !== undefined, `a decode run for ${numSequences} sequences`);
  return slots;
}

/** For one row per sequence, the newest of its cache; null = the layer has no attention. */
export function decodeFeed(model: Model, layer: number, caches: readonly SequenceCache[]): AttentionFeed {
  const { attention: shape } = model.architecture.layers[layer] ?? {};
  if (shape == null) return { kind: 'none' };
  const heads = caches.map((cache) => headViews(model, layer, cache));
  return { kind: 'decode', shape, slots: decodeSlots(model, caches.length), heads };
}

/** What the newest row of an unpruned cache reads. */
export function headViews(model: Model, layer: number, cache: SequenceCache): HeadView[] {
  const { window } = model.architecture.layers[layer] ?? {};
  return cache.heads(layer).map((head) => {
    const from = window == null ? 0 : Math.max(0, head.length - window);
    return { keys: head.keys(from), values: head.values(from) };
  });
}

/** Causal masks of square tails, by number of rows. */
const causalMasks = new Map<number, Float32Array>();

export function causalMask(numRows: number): Float32Array {
  let mask = causalMasks.get(numRows);
  if (mask === undefined) {
    mask = windowMask(numRows, 0, 0, Infinity);
    causalMasks.set(numRows, mask);
  }
  return mask;
}

/** [numRows, begin - from + numRows] for rows at positions begin.. and columns at positions from.. */
function windowMask(numRows: number, begin: number, from: number, window: number): Float32Array {
  const columns = begin - from + numRows;
  const mask = new Float32Array(numRows * columns);
  for (let row = 0; row < numRows; row++) {
    const position = begin + row;
    mask.fill(HIDDEN, row * columns + (position - from) + 1, (row + 1) * columns);
    const outside = position - window + 1 - from;
    if (outside > 0) mask.fill(HIDDEN, row * columns, row * columns + outside);
  }
  return mask;
}

/** For the rows of one sequence at positions begin..end-1, whose keys and values are in the cache already. */
export function tileFeed(
  model: Model,
  layer: number,
  cache: SequenceCache,
  begin: number,
  end: number,
): AttentionFeed {
  const { attention: shape, window } = model.architecture.layers[layer] ?? {};
  if (shape == null) return { kind: 'none' };
  const from = window == null ? 0 : Math.max(0, begin - window + 1);
  // While no row has left its window behind, only the tile's own columns need a mask.
  const isCut = window != null && end - from > window;
  const mask = isCut ? windowMask(end - begin, begin, from, window) : causalMask(end - begin);
  const heads = cache.heads(layer).map((head): TileHeadView => ({
    keys: head.keys(from, end),
    values: head.values(from, end),
    mask,
  }));
  return { kind: 'tile', shape, heads };
}

/** Appends a run's projected rows, [numRows, (queryHeads + 2 kvHeads) * headDim], to a layer's caches. */
export function appendProjected(
  model: Model,
  layer: number,
  cache: SequenceCache,
  projected: Float32Array,
  numRows: number,
): void {
  const shape = model.architecture.layers[layer]?.attention;
  if (shape == null) return;
  const { queryHeads, kvHeads, headDim } = shape;
  const width = projected.length / numRows;
  cache.heads(layer).forEach((head, j) => {
    head.appendColumns(projected, width, (queryHeads + j) * headDim, (queryHeads + kvHeads + j) * headDim);
  });
}
