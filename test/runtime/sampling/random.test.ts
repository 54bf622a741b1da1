/** The generator against its authors' vectors, and what a seed promises. */
import { expect, it } from 'vitest';
import { createUniforms, philox } from '../../../src/runtime/sampling/random.ts';

function take(seed: number | null, choice: number, count = 4): number[] {
  const uniform = createUniforms(seed, choice);
  return Array.from({ length: count }, uniform);
}

// Random123, tests/kat_vectors, philox4x32 with 10 rounds.
it.each([
  [
    [0, 0, 0, 0],
    [0, 0],
    [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  ],
  [
    [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
    [0xffffffff, 0xffffffff],
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  ],
  [
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ],
] as const)('matches the known answers %#', (counter, key, expected) => {
  expect(philox(counter, key)).toEqual(expected);
});

it('repeats itself by seed and choice, and by nothing else', () => {
  const seeds = [0, 1, -1, 42, 2 ** 32, -(2 ** 32), Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER];
  const streams = seeds.flatMap((seed) => [0, 1, 2].map((choice) => take(seed, choice)));
  expect(seeds.flatMap((seed) => [0, 1, 2].map((choice) => take(seed, choice)))).toEqual(streams);
  expect(new Set(streams.flat()).size).toBe(streams.flat().length);
});

it('draws another stream each time without a seed', () => {
  expect(take(null, 0)).not.toEqual(take(null, 0));
});

it('is uniform in [0, 1)', () => {
  const numBins = 20;
  const numDraws = 20_000;
  const bins = new Array<number>(numBins).fill(0);
  for (const value of take(7, 0, numDraws)) bins[Math.floor(value * numBins)]!++;
  const expected = numDraws / numBins;
  const chiSquare = bins.reduce((total, count) => total + (count - expected) ** 2 / expected, 0);
  // 19 degrees of freedom: 43.8 is exceeded once in a thousand seeds.
  expect(chiSquare).toBeLessThan(43.8);
});

it('refuses a seed that JSON cannot carry exactly', () => {
  expect(() => createUniforms(2 ** 53, 0)).toThrow('safe integer');
});
