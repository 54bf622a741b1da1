/** How far apart two sets of rows are: hidden states by their angle, logits by what they predict. */

/** Sum over the rows of a and b, [rows, width], of the cosine between them. */
export function sumOfCosines(a: Float32Array, b: Float32Array, width: number): number {
  let sum = 0;
  for (let start = 0; start < a.length; start += width) {
    let dot = 0;
    let squaresA = 0;
    let squaresB = 0;
    for (let i = start; i < start + width; i++) {
      dot += a[i]! * b[i]!;
      squaresA += a[i]! * a[i]!;
      squaresB += b[i]! * b[i]!;
    }
    sum += dot / Math.sqrt(squaresA * squaresB);
  }
  return sum;
}

/** Turns the rows of logits [rows, vocabSize] into natural logarithms of probabilities, in place. */
export function logSoftmaxRows(logits: Float32Array, vocabSize: number): void {
  for (let start = 0; start < logits.length; start += vocabSize) {
    let top = -Infinity;
    for (let i = start; i < start + vocabSize; i++) top = Math.max(top, logits[i]!);
    let total = 0;
    for (let i = start; i < start + vocabSize; i++) total += Math.exp(logits[i]! - top);
    const shift = top + Math.log(total);
    for (let i = start; i < start + vocabSize; i++) logits[i]! -= shift;
  }
}

/**
 * Sum over rows of the Jensen-Shannon divergence of two distributions, in nats (0 to ln 2 a row), from their
 * logarithms.
 */
export function sumOfDivergences(logP: Float32Array, logQ: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < logP.length; i++) {
    const p = Math.exp(logP[i]!);
    const q = Math.exp(logQ[i]!);
    // Equal terms add nothing, but would add rounding errors, or 0 * infinity where both underflow.
    if (p === q) continue;
    const logMean = Math.log((p + q) / 2);
    sum += (p === 0 ? 0 : p * (logP[i]! - logMean)) + (q === 0 ? 0 : q * (logQ[i]! - logMean));
  }
  return sum / 2;
}
