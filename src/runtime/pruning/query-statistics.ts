/** Mean and covariance of a sequence's queries before RoPE, and the attention that they let expect (arXiv 2510.00636). */
import { invariant } from '../../errors.ts';
import type { Model } from '../model.ts';
import { addOuter, quadraticForms, unrotate } from './query-statistics.kernel.ts';

/** Beyond so many rows, only one in `STRIDE` is added, with so much weight: the estimate is good enough by then. */
const MAX_DENSE_ROWS = 512;
const STRIDE = 16;

interface HeadStatistics {
  weight: number;
  /** [headDim] */
  readonly sum: Float64Array;
  /** [headDim, headDim], the lower triangle. */
  readonly products: Float64Array;
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
  /** By layer: one item a query head. */
  readonly #layers = new Map<number, HeadStatistics[]>();

  constructor(model: Model, skip: number) {
    this.#model = model;
    this.#skip = skip;
  }

  clone(): QueryStatistics {
    const copy = new QueryStatistics(this.#model, this.#skip);
    for (const [layer, heads] of this.#layers) {
      copy.#layers.set(
        layer,
        heads.map(({ weight, sum, products }) => ({ weight, sum: sum.slice(), products: products.slice() })),
      );
    }
    return copy;
  }

  /** Rows of a run, [rows, (queryHeads + 2 kvHeads) * headDim], queries after RoPE. */
  add(layer: number, projected: Float32Array, positions: Int32Array): void {
    const { attention, rope } = this.#model.architecture.layers[layer] ?? {};
    if (attention == null) return;
    const { queryHeads, headDim } = attention;
    const width = projected.length / positions.length;
    let heads = this.#layers.get(layer);
    if (heads === undefined) {
      heads = Array.from({ length: queryHeads }, () => ({
        weight: 0,
        sum: new Float64Array(headDim),
        products: new Float64Array(headDim * headDim),
      }));
      this.#layers.set(layer, heads);
    }
    const query = new Float32Array(headDim);
    for (const [row, position] of positions.entries()) {
      const isDense = (heads[0]?.weight ?? 0) < MAX_DENSE_ROWS;
      if (position < this.#skip || (!isDense && position % STRIDE !== 0)) continue;
      const weight = isDense ? 1 : STRIDE;
      const angles = rope === true ? this.#model.rope.range(position, position + 1) : null;
      for (const [h, head] of heads.entries()) {
        const start = row * width + h * headDim;
        query.set(projected.subarray(start, start + headDim));
        if (angles !== null) unrotate(query, angles.cos, angles.sin);
        head.weight += weight;
        addOuter(head.sum, head.products, query, weight);
      }
    }
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
    for (let query = kvHead * group; query < (kvHead + 1) * group; query++) {
      const head = this.#layers.get(layer)?.[query];
      if (head === undefined || head.weight === 0) continue;
      const { mean, covariance } = moments(head, headDim);
      if (rotation !== null) turn(mean, covariance, rotation);
      const logits = quadraticForms(keys.subarray(skipped * headDim), mean, covariance);
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

function moments({ weight, sum, products }: HeadStatistics, headDim: number) {
  const mean = sum.map((value) => value / weight);
  const covariance = new Float64Array(headDim * headDim);
  for (let i = 0; i < headDim; i++) {
    for (let j = 0; j <= i; j++) {
      const value = (products[i * headDim + j] ?? 0) / weight - (mean[i] ?? 0) * (mean[j] ?? 0);
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

function addSoftmax(into: Float32Array, logits: Float32Array, share: number): void {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0);
  logits.forEach((logit, i) => {
    into[i] = (into[i] ?? 0) + (share * Math.exp(logit - top)) / total;
  });
}
