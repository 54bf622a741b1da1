/** How many and which: the rounding and tie rules that policies share. */
import { invariant } from '../errors.ts';
import type { Budget, HeadEntries } from './contract.ts';

/** Keeps sums like 0.7 * 100 from falling below the whole number that is meant. */
const EPSILON = 1e-9;

/** Tokens that a stage keeps: n - floor((1 - keep) * n). */
export function keptTokens(keep: number, numAlive: number): number {
  return numAlive - Math.floor((1 - keep) * numAlive + EPSILON);
}

/** Entries that a head keeps of `numSeen`: floor(keep * n), at least one, or `maxEntries` if that is less. */
export function keptEntries({ keep, maxEntries }: Budget, numSeen: number): number {
  if (keep !== undefined) return Math.max(1, Math.floor(keep * numSeen + EPSILON));
  invariant(maxEntries !== undefined, 'a budget has a share or a number');
  return Math.min(maxEntries, numSeen);
}

/** Ascending indices of the `count` highest scores; equal scores: lower index first. */
export function topIndices(scores: ArrayLike<number>, count: number): Int32Array {
  if (count >= scores.length) return Int32Array.from({ length: scores.length }, (_, i) => i);
  if (count <= 0) return new Int32Array(0);
  // Sorting plain numbers takes a third of the time of sorting indices by them.
  const values = Float64Array.from(scores);
  const threshold = values.slice().sort()[values.length - count] ?? 0;
  const numAbove = values.reduce((sum, value) => sum + Number(value > threshold), 0);
  let numEqual = count - numAbove;
  const chosen = new Int32Array(count);
  let next = 0;
  values.forEach((value, i) => {
    if (value > threshold || (value === threshold && numEqual-- > 0)) chosen[next++] = i;
  });
  return chosen;
}

/** As {@link topIndices}, the last token among them: it is the query, and stays whatever it thinks of itself. */
export function topTokens(importance: ArrayLike<number>, count: number): Int32Array {
  const scores = Float64Array.from(importance);
  scores[scores.length - 1] = Infinity;
  return topIndices(scores, count);
}

/** Ascending indices of the protected entries and the best of the others, `budget` in all. */
export function topEntries(
  scores: ArrayLike<number>,
  budget: number,
  { numSinks, numRecent }: Pick<HeadEntries, 'numSinks' | 'numRecent'>,
): Int32Array {
  const { length } = scores;
  if (budget >= length) return Int32Array.from({ length }, (_, i) => i);
  const isProtected = (i: number): boolean => i < numSinks || i >= length - numRecent;
  return topIndices(
    Array.from({ length }, (_, i) => (isProtected(i) ? Infinity : (scores[i] ?? 0))),
    budget,
  );
}
