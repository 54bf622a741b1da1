/**
 * How far each head looks back on average, from nothing but its mean query and key: the score that kvpress uses where
 * no trained DuoAttention gates exist. 1 = all attention on the oldest key, 0.5 = evenly spread, 0 = on the newest.
 */
import type { AttentionShape } from '../../graph/architecture.ts';

/** Positions over which the mean key is repeated. */
export const AREA_POSITIONS = 500;

/** Rows of a rotary table, [positions, headDim / 2] each. */
interface Rotation {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/**
 * Adds the query and key rows of `projected` [rows, (queryHeads + 2 kvHeads) * headDim], turned back to what they were
 * before RoPE, to `sums` [(queryHeads + kvHeads) * headDim]. `rope` has the rows of their positions; null = the layer
 * has none. Head norms (Qwen3) have been applied, as in the model; kvpress forgets them.
 */
export function addUnrotated(
  sums: Float64Array,
  projected: Float32Array,
  { queryHeads, kvHeads, headDim }: AttentionShape,
  rope: Rotation | null,
): void {
  const stride = (queryHeads + 2 * kvHeads) * headDim;
  const half = headDim / 2;
  for (let row = 0; row < projected.length / stride; row++) {
    for (let head = 0; head < queryHeads + kvHeads; head++) {
      const start = head * headDim;
      for (let i = start; i < start + half; i++) {
        const a = projected[row * stride + i]!;
        const b = projected[row * stride + i + half]!;
        const cos = rope?.cos[row * half + i - start] ?? 1;
        const sin = rope?.sin[row * half + i - start] ?? 0;
        // The inverse rotation. YaRN scales both cosine and sine: the square of it is divided out, too.
        const scale = cos * cos + sin * sin;
        sums[i]! += (a * cos + b * sin) / scale;
        sums[i + half]! += (b * cos - a * sin) / scale;
      }
    }
  }
}

/** One head's vector [headDim] turned to a position of the table. */
function rotate(vector: Float64Array, { cos, sin }: Rotation, position: number): Float64Array {
  const half = vector.length / 2;
  const rotated = new Float64Array(vector.length);
  for (let i = 0; i < half; i++) {
    const c = cos[position * half + i]!;
    const s = sin[position * half + i]!;
    rotated[i] = vector[i]! * c - vector[i + half]! * s;
    rotated[i + half] = vector[i + half]! * c + vector[i]! * s;
  }
  return rotated;
}

/**
 * Area under the cumulative attention that a query at the last of the table's positions gives to the same key at all
 * of them.
 */
export function attentionArea(query: Float64Array, key: Float64Array, rope: Rotation): number {
  const { length: headDim } = query;
  const numPositions = rope.cos.length / (headDim / 2);
  const last = rotate(query, rope, numPositions - 1);
  const scores = Float64Array.from({ length: numPositions }, (_, position) => {
    const turned = rotate(key, rope, position);
    return last.reduce((sum, q, i) => sum + q * turned[i]!, 0) / Math.sqrt(headDim);
  });
  const top = scores.reduce((a, b) => Math.max(a, b));
  const weights = scores.map((score) => Math.exp(score - top));
  const total = weights.reduce((a, b) => a + b);
  // The weight at position i is part of the cumulative sums from i on.
  return weights.reduce((area, weight, i) => area + weight * (numPositions - i), 0) / (total * numPositions);
}
