/** Random numbers of one choice: equal seeds give equal numbers, whatever else runs beside it. */
import { invariant } from '../../errors.ts';

type Words = readonly [number, number, number, number];

const ROUNDS = 10;

/**
 * Philox4x32-10: four random 32-bit words for a counter and a key.
 * Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405
 */
export function philox(counter: Words, key: readonly [number, number]): Words {
  let [a, b, c, d] = counter;
  let [left, right] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const nextA = mulHigh(0xcd9e8d57, c) ^ b ^ left;
    const nextC = mulHigh(0xd2511f53, a) ^ d ^ right;
    b = Math.imul(0xcd9e8d57, c);
    d = Math.imul(0xd2511f53, a);
    a = nextA;
    c = nextC;
    left = (left + 0x9e3779b9) | 0;
    right = (right + 0xbb67ae85) | 0;
  }
  return [a >>> 0, b >>> 0, c >>> 0, d >>> 0];
}

/** Upper 32 bits of the unsigned 64-bit product, from four 16-bit products. */
function mulHigh(x: number, y: number): number {
  const xHigh = x >>> 16;
  const xLow = x & 0xffff;
  const yHigh = y >>> 16;
  const yLow = y & 0xffff;
  const middle = xHigh * yLow + ((xLow * yLow) >>> 16);
  const carry = xLow * yHigh + (middle & 0xffff);
  return xHigh * yHigh + (middle >>> 16) + (carry >>> 16);
}

/**
 * Uniform numbers in [0, 1) with 53 random bits, the n-th a function of (seed, choice, n) alone.
 * `seed` is a safe integer, negative ones included, or null for one that nobody can guess.
 */
export function createUniforms(seed: number | null, choice: number): () => number {
  const key = seed === null ? crypto.getRandomValues(new Uint32Array(2)) : seedWords(seed);
  const [left = 0, right = 0] = key;
  let drawn = 0;
  return () => {
    const [high, low] = philox([drawn++, choice, 0, 0], [left, right]);
    return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
  };
}

/** The two's complement 64 bits of `seed`: no two seeds share a stream. */
function seedWords(seed: number): readonly [number, number] {
  invariant(Number.isSafeInteger(seed), `a seed is a safe integer, got ${seed}`);
  return [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
}
