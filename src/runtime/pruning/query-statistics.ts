/** Mean and covariance of a sequence's queries before RoPE, and the attention that they let expect (arXiv 2510.00636). */
import { invariant } from '../../errors.ts';
import type { Model } from '../model.ts';
import {
  addMoments,
  addSoftmax,
  interleave,
  paddedDim,
  quadraticForms,
  unrotate,
} from './query-statistics.kernel.ts';

/** Beyond so many rows, only one in `STRIDE` is added, with so much weight: the estimate is good enough by then. */
const MAX_DENSE_ROWS = 512;
const STRIDE = 16;

/** `dim` is the head's dimension, padded. */
interface HeadStatistics {
  /** [dim] */
  readonly sum: Float64Array;
  /** [dim, dim], the lower triangle. */
  readonly products: Float64Array;
}

interface LayerStatistics {
  weight: number;
  /** One item a query head. */
  readonly heads: readonly HeadStatistics[];
}

export interface Horizon {
  /** The next position. */
  readonly next: number;
  /** Positions from there on over which RoPE is averaged. */
  readonly numFuture: number;
  /** First entries that take no part. */
  readonly skip: number;
}

export class QueryStatistics {
  readonly #model: Model;
  /** Rows at positions below are left out: what attends to the beginning of a text is unlike the rest. */
  readonly #skip: number;
  readonly #layers = new Map<number, LayerStatistics>();

  constructor(model: Model, skip: number) {
    this.#model = model;
    this.#skip = skip;
  }

  clone(): QueryStatistics {
    const copy = new QueryStatistics(this.#model, this.#skip);
    for (const [layer, { weight, heads }] of this.#layers) {
      const copies = heads.map(({ sum, products }) => ({ sum: sum.slice(), products: products.slice() }));
      copy.#layers.set(layer, { weight, heads: copies });
    }
    return copy;
  }

  /** Rows of a run, [rows, (queryHeads + 2 kvHeads) * headDim], queries after RoPE. */
  add(layer: number, projected: Float32Array, positions: Int32Array): void {
    const { attention, rope } = this.#model.architecture.layers[layer] ?? {};
    if (attention == null) return;
    const { queryHeads, headDim } = attention;
    const width = projected.length / positions.length;
    const dim = paddedDim(headDim);
    const statistics = this.#layers.get(layer) ?? {
      weight: 0,
      heads: Array.from({ length: queryHeads }, () => ({
        sum: new Float64Array(dim),
        products: new Float64Array(dim * dim),
      })),
    };
    this.#layers.set(layer, statistics);
    for (const { rows, weight } of this.#sample(positions, statistics.weight)) {
      if (rows.length === 0) continue;
      statistics.weight += rows.length * weight;
      const rotation = rope === true ? this.#model.rope.rows(rows.map((row) => positions[row] ?? 0)) : null;
      statistics.heads.forEach(({ sum, products }, h) => {
        const blocks = interleave(projected, { width, start: h * headDim, headDim }, rows);
        if (rotation !== null) unrotate(blocks, headDim, rotation, rows.length);
        addMoments(sum, products, blocks, weight);
      });
    }
  }

  /** The rows that count, and how much each of them does; `weight` = that of all rows before. */
  #sample(positions: Int32Array, weight: number): { rows: Int32Array; weight: number }[] {
    const dense: number[] = [];
    const sparse: number[] = [];
    positions.forEach((position, row) => {
      if (position < this.#skip) return;
      if (weight + dense.length < MAX_DENSE_ROWS) dense.push(row);
      else if (position % STRIDE === 0) sparse.push(row);
    });
    return [
      { rows: Int32Array.from(dense), weight: 1 },
      { rows: Int32Array.from(sparse), weight: STRIDE },
    ];
  }

  /** As the policies' contract says, for the keys [n, headDim] of one KV head. */
  expectedAttention(layer: number, kvHead: number, keys: Float32Array, horizon: Horizon): Float32Array {
    const { attention, rope } = this.#model.architecture.layers[layer] ?? {};
    invariant(attention != null, `layer ${layer} has attention`);
    const { headDim } = attention;
    const group = attention.queryHeads / attention.kvHeads;
    const numEntries = keys.length / headDim;
    const skipped = Math.min(horizon.skip, numEntries);
    const rotation = rope === true ? this.#meanRotation(horizon) : null;
    const expected = new Float32Array(numEntries);
    const statistics = this.#layers.get(layer);
    if (statistics === undefined || statistics.weight === 0) return expected;
    const columns = { width: headDim, start: 0, headDim };
    const blocks = interleave(keys.subarray(skipped * headDim), columns, null);
    for (const head of statistics.heads.slice(kvHead * group, (kvHead + 1) * group)) {
      const { mean, covariance } = moments(head, statistics.weight, headDim);
      if (rotation !== null) turn(mean, covariance, rotation);
      const logits = quadraticForms(blocks, numEntries - skipped, mean, covariance);
      addSoftmax(expected.subarray(skipped), logits, 1 / group);
    }
    return expected;
  }

  #meanRotation({ next, numFuture }: Horizon): { cos: Float64Array; sin: Float64Array } {
    const table = this.#model.rope.range(next, next + numFuture);
    const half = table.cos.length / numFuture;
    const mean = (values: Float32Array): Float64Array => {
      const sums = new Float64Array(half);
      values.forEach((value, i) => {
        sums[i % half] = (sums[i % half] ?? 0) + value / numFuture;
      });
      return sums;
    };
    return { cos: mean(table.cos), sin: mean(table.sin) };
  }
}

function moments({ sum, products }: HeadStatistics, weight: number, headDim: number) {
  const dim = sum.length;
  const mean = sum.subarray(0, headDim).map((value) => value / weight);
  const covariance = new Float64Array(headDim * headDim);
  for (let i = 0; i < headDim; i++) {
    for (let j = 0; j <= i; j++) {
      const value = (products[i * dim + j] ?? 0) / weight - (mean[i] ?? 0) * (mean[j] ?? 0);
      covariance[i * headDim + j] = covariance[j * headDim + i] = value;
    }
  }
  return { mean, covariance };
}

/** mean <- R mean, covariance <- R covariance R', with R the rotation of each pair (i, half + i). */
function turn(
  mean: Float64Array,
  covariance: Float64Array,
  { cos, sin }: { cos: Float64Array; sin: Float64Array },
): void {
  const headDim = mean.length;
  const half = headDim / 2;
  const rotate = (values: Float64Array, start: number, step: number): void => {
    for (let i = 0; i < half; i++) {
      const [first, second] = [start + i * step, start + (half + i) * step];
      const [a, b] = [values[first] ?? 0, values[second] ?? 0];
      const [c, s] = [cos[i] ?? 1, sin[i] ?? 0];
      values[first] = a * c - b * s;
      values[second] = b * c + a * s;
    }
  };
  rotate(mean, 0, 1);
  for (let column = 0; column < headDim; column++) rotate(covariance, column, headDim);
  for (let row = 0; row < headDim; row++) rotate(covariance, row * headDim, 1);
}
