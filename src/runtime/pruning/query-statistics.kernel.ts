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

/** k.mean / sqrt(d) + k' covariance k / 2d for each row k of [n, d]. */
export function quadraticForms(
  keys: Float32Array,
  mean: Float64Array,
  covariance: Float64Array,
): Float32Array {
  const d = mean.length;
  // The lower triangle with the mirrored half added, in single precision: one pass, half of the products.
  const folded = new Float32Array(d * d);
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < i; j++) folded[i * d + j] = 2 * covariance[i * d + j]!;
    folded[i * d + i] = covariance[i * d + i]!;
  }
  const result = new Float32Array(keys.length / d);
  for (let entry = 0; entry < result.length; entry++) {
    const start = entry * d;
    let linear = 0;
    let quadratic = 0;
    for (let i = 0; i < d; i++) {
      const k = keys[start + i]!;
      linear += k * mean[i]!;
      let product = 0;
      for (let j = 0; j <= i; j++) product += folded[i * d + j]! * keys[start + j]!;
      quadratic += k * product;
    }
    result[entry] = linear / Math.sqrt(d) + quadratic / (2 * d);
  }
  return result;
}
