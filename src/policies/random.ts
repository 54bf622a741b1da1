/** Chance without state: numbers that are a function of their keys alone. */

/** Uniform in [0, 1); keys are whole numbers in [0, 2^32), such as a seed and a position. */
export function uniform(...keys: readonly number[]): number {
  let hash = 0;
  for (const key of keys) hash = scramble((hash + key + 0x9e3779b9) | 0);
  return (hash >>> 0) / 2 ** 32;
}

/** The finaliser of MurmurHash3: every input bit changes each output bit with probability one half. */
function scramble(value: number): number {
  const once = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  const twice = Math.imul(once ^ (once >>> 13), 0xc2b2ae35);
  return twice ^ (twice >>> 16);
}
