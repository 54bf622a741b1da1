/** Plain float64 versions of what the sampler computes, to compare with. */
import fc from 'fast-check';

export function naiveSoftmax(logits: ArrayLike<number>, temperature = 1): number[] {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const max = Math.max(...scaled);
  const weights = scaled.map((value) => Math.exp(value - max));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/** Indices of `values`, largest first, equals by ascending index. */
export function descending(values: ArrayLike<number>): number[] {
  return Array.from(values, (_, i) => i).sort((a, b) => values[b]! - values[a]! || a - b);
}

/** [2..400] logits like a model's, or few distinct ones so that ties happen. */
export const arbitraryLogits = fc
  .oneof(
    fc.array(fc.float({ min: -30, max: 30, noNaN: true }), { minLength: 2, maxLength: 400 }),
    fc.array(fc.integer({ min: -2, max: 2 }), { minLength: 2, maxLength: 400 }),
  )
  .map((values) => Float32Array.from(values));
