/** Arithmetic of the query statistics. */

/** Undoes RoPE of one row in place; a scale on cosine and sine (YaRN) is undone with it. */
export function unrotate(row: Float32Array, cos: Float32Array, sin: Float32Array): void {
  const half = cos.length;
  for (let i = 0; i < half; i++) {
    const [c, s] = [cos[i]!, sin[i]!];
    const [a, b] = [row[i]!, row[half + i]!];
    row[i] = (a * c + b * s) / (c * c + s * s);
    row[half + i] = (b * c - a * s) / (c * c + s * s);
  }
}

/** sum += weight * x; the lower triangle of products += weight * x x'. */
export function addOuter(sum: Float64Array, products: Float64Array, x: Float32Array, weight: number): void {
  const n = x.length;
  for (let i = 0; i < n; i++) {
    const value = weight * x[i]!;
    sum[i]! += value;
    const row = i * n;
    for (let j = 0; j <= i; j++) products[row + j]! += value * x[j]!;
  }
}

/** Products that run side by side: one after another they would wait for each other's sum. */
const LANES = 4;

/** k.mean / sqrt(d) + k' covariance k / 2d for each row k of [n, d]. */
export function quadraticForms(
  keys: Float32Array,
  mean: Float64Array,
  covariance: Float64Array,
): Float32Array {
  const d = mean.length;
  const stride = Math.ceil(d / LANES) * LANES;
  // The lower triangle with the mirrored half added, zeros behind it: half of the products.
  const folded = new Float64Array(d * stride);
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < i; j++) folded[i * stride + j] = 2 * covariance[i * d + j]!;
    folded[i * stride + i] = covariance[i * d + i]!;
  }
  const key = new Float64Array(stride);
  const result = new Float32Array(keys.length / d);
  for (let entry = 0; entry < result.length; entry++) {
    for (let i = 0; i < d; i++) key[i] = keys[entry * d + i]!;
    let linear = 0;
    let quadratic = 0;
    for (let i = 0; i < d; i++) {
      const row = i * stride;
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let j = 0; j <= i; j += LANES) {
        s0 += folded[row + j]! * key[j]!;
        s1 += folded[row + j + 1]! * key[j + 1]!;
        s2 += folded[row + j + 2]! * key[j + 2]!;
        s3 += folded[row + j + 3]! * key[j + 3]!;
      }
      linear += key[i]! * mean[i]!;
      quadratic += key[i]! * (s0 + s1 + s2 + s3);
    }
    result[entry] = linear / Math.sqrt(d) + quadratic / (2 * d);
  }
  return result;
}
