/** Signals that come from the keys and values of one head alone. */

/** L2 norm of each row of [n, headDim]. */
export function norms(rows: Float32Array, headDim: number): Float32Array {
  const result = new Float32Array(rows.length / headDim);
  for (let i = 0; i < result.length; i++) {
    let sum = 0;
    for (let d = i * headDim; d < (i + 1) * headDim; d++) sum += rows[d]! * rows[d]!;
    result[i] = Math.sqrt(sum);
  }
  return result;
}

/** Keeps a row of zeros from dividing by zero. */
const SMALLEST_NORM = 1e-12;

/** Cosine of each key and the mean of all normalised keys, [n]. */
export function keySimilarities(keys: Float32Array, headDim: number): Float32Array {
  const lengths = norms(keys, headDim);
  const mean = new Float64Array(headDim);
  for (let i = 0; i < keys.length; i++)
    mean[i % headDim]! +=
      keys[i]! / Math.max(SMALLEST_NORM, lengths[Math.floor(i / headDim)]!) / lengths.length;
  const meanLength = Math.max(SMALLEST_NORM, Math.hypot(...mean));
  return lengths.map((length, i) => {
    let dot = 0;
    for (let d = 0; d < headDim; d++) dot += keys[i * headDim + d]! * mean[d]!;
    return dot / (Math.max(SMALLEST_NORM, length) * meanLength);
  });
}
