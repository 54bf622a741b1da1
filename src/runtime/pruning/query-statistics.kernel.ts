/**
 * Arithmetic of the query statistics. Its two products have four rows side by side and take two rows of the matrix at a
 * time: eight products for six numbers read. What is larger no longer fits into registers, and is slower.
 */
import { expNegative } from '../sampling/exp.kernel.ts';

/** Rows that lie side by side. */
const LANES = 4;

/** `headDim` with a zero behind it if it is odd. */
export function paddedDim(headDim: number): number {
  return headDim + (headDim % 2);
}

/** Where a head's columns lie in a matrix of rows. */
interface Columns {
  readonly width: number;
  readonly start: number;
  readonly headDim: number;
}

/**
 * A head's columns of `rows` (null = all) of `matrix` [., width], four rows side by side:
 * [ceil(rows / 4), paddedDim, 4], zeros behind the last.
 */
export function interleave(
  matrix: Float32Array,
  { width, start, headDim }: Columns,
  rows: Int32Array | null,
): Float64Array {
  const numRows = rows === null ? matrix.length / width : rows.length;
  const blockSize = paddedDim(headDim) * LANES;
  const blocks = new Float64Array(Math.ceil(numRows / LANES) * blockSize);
  for (let r = 0; r < numRows; r++) {
    const from = (rows === null ? r : rows[r]!) * width + start;
    const to = Math.floor(r / LANES) * blockSize + (r % LANES);
    for (let i = 0; i < headDim; i++) blocks[to + i * LANES] = matrix[from + i]!;
  }
  return blocks;
}

/** Undoes RoPE of interleaved rows in place: a rotary table's rows [rows, half]. Its scale (YaRN) is undone with it. */
export function unrotate(
  blocks: Float64Array,
  headDim: number,
  { cos, sin }: { cos: Float32Array; sin: Float32Array },
  numRows: number,
): void {
  const half = cos.length / numRows;
  const blockSize = paddedDim(headDim) * LANES;
  for (let r = 0; r < numRows; r++) {
    const row = Math.floor(r / LANES) * blockSize + (r % LANES);
    for (let i = 0; i < half; i++) {
      const c = cos[r * half + i]!;
      const s = sin[r * half + i]!;
      const [first, second] = [row + i * LANES, row + (half + i) * LANES];
      const a = blocks[first]!;
      const b = blocks[second]!;
      blocks[first] = (a * c + b * s) / (c * c + s * s);
      blocks[second] = (b * c - a * s) / (c * c + s * s);
    }
  }
}

/**
 * For interleaved rows X [n, dim]: sum [dim] += weight * X'1, products [dim, dim] += weight * X'X, whose lower triangle
 * is complete afterwards. `dim` is padded.
 */
export function addMoments(
  sum: Float64Array,
  products: Float64Array,
  blocks: Float64Array,
  weight: number,
): void {
  const dim = sum.length;
  for (let block = 0; block < blocks.length; block += dim * LANES) {
    for (let i = 0; i < dim; i += 2) {
      const at = block + i * LANES;
      const a0 = weight * blocks[at]!;
      const a1 = weight * blocks[at + 1]!;
      const a2 = weight * blocks[at + 2]!;
      const a3 = weight * blocks[at + 3]!;
      const b0 = weight * blocks[at + 4]!;
      const b1 = weight * blocks[at + 5]!;
      const b2 = weight * blocks[at + 6]!;
      const b3 = weight * blocks[at + 7]!;
      sum[i]! += a0 + a1 + a2 + a3;
      sum[i + 1]! += b0 + b1 + b2 + b3;
      const row = i * dim;
      for (let j = 0; j < i + 2; j++) {
        const x0 = blocks[block + 4 * j]!;
        const x1 = blocks[block + 4 * j + 1]!;
        const x2 = blocks[block + 4 * j + 2]!;
        const x3 = blocks[block + 4 * j + 3]!;
        products[row + j]! += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3;
        products[row + dim + j]! += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3;
      }
    }
  }
}

/**
 * The lower triangle with the mirrored half added, [dim / 2, dim, 2] with rows side by side in pairs: k' folded k is
 * k' covariance k in half of the products.
 */
function fold(covariance: Float64Array, headDim: number): Float64Array {
  const dim = paddedDim(headDim);
  const folded = new Float64Array(dim * dim);
  for (let i = 0; i < headDim; i++) {
    const to = (i - (i % 2)) * dim + (i % 2);
    for (let j = 0; j < i; j++) folded[to + 2 * j] = 2 * covariance[i * headDim + j]!;
    folded[to + 2 * i] = covariance[i * headDim + i]!;
  }
  return folded;
}

/** k.mean / sqrt(d) + k' covariance k / 2d for each of `numKeys` keys k, interleaved; mean [d], covariance [d, d]. */
export function quadraticForms(
  blocks: Float64Array,
  numKeys: number,
  mean: Float64Array,
  covariance: Float64Array,
): Float32Array {
  const d = mean.length;
  const dim = paddedDim(d);
  const blockSize = dim * LANES;
  const folded = fold(covariance, d);
  // Both terms over 2d: k.(linear + folded k) / 2d.
  const linear = new Float64Array(dim);
  for (let i = 0; i < d; i++) linear[i] = 2 * Math.sqrt(d) * mean[i]!;
  const result = new Float32Array(Math.ceil(numKeys / LANES) * LANES);
  for (let key = 0, block = 0; key < numKeys; key += LANES, block += blockSize) {
    let [sum0, sum1, sum2, sum3] = [0, 0, 0, 0];
    for (let i = 0; i < dim; i += 2) {
      const first = linear[i]!;
      const second = linear[i + 1]!;
      let [a0, a1, a2, a3, b0, b1, b2, b3] = [first, first, first, first, second, second, second, second];
      const row = i * dim;
      for (let j = 0; j < i + 2; j++) {
        const a = folded[row + 2 * j]!;
        const b = folded[row + 2 * j + 1]!;
        const x0 = blocks[block + 4 * j]!;
        const x1 = blocks[block + 4 * j + 1]!;
        const x2 = blocks[block + 4 * j + 2]!;
        const x3 = blocks[block + 4 * j + 3]!;
        a0 += a * x0;
        b0 += b * x0;
        a1 += a * x1;
        b1 += b * x1;
        a2 += a * x2;
        b2 += b * x2;
        a3 += a * x3;
        b3 += b * x3;
      }
      const at = block + i * LANES;
      sum0 += a0 * blocks[at]! + b0 * blocks[at + 4]!;
      sum1 += a1 * blocks[at + 1]! + b1 * blocks[at + 5]!;
      sum2 += a2 * blocks[at + 2]! + b2 * blocks[at + 6]!;
      sum3 += a3 * blocks[at + 3]! + b3 * blocks[at + 7]!;
    }
    result[key] = sum0 / (2 * d);
    result[key + 1] = sum1 / (2 * d);
    result[key + 2] = sum2 / (2 * d);
    result[key + 3] = sum3 / (2 * d);
  }
  return result.subarray(0, numKeys);
}

/** into += share * softmax(logits). */
export function addSoftmax(into: Float32Array, logits: Float32Array, share: number): void {
  let top = -Infinity;
  for (let i = 0; i < logits.length; i++) top = Math.max(top, logits[i]!);
  const weights = new Float64Array(logits.length);
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += weights[i] = expNegative(top - logits[i]!);
  for (let i = 0; i < logits.length; i++) into[i]! += (share * weights[i]!) / total;
}
