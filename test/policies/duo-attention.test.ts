/** Which heads stream, for the published patterns at every ratio. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { streamingHeads } from '../../src/policies/kv/duo-attention.ts';

const FOLDER = join(import.meta.dirname, '../fixtures/duo/patterns');

interface Masks {
  kvpress: { head_compression_ratio: number; n_streaming: number; streaming_stable: string[] }[];
}

describe.each(readdirSync(FOLDER))('%s', (model) => {
  const gates = readFileSync(join(FOLDER, model, 'full_attention_heads.tsv'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split('\t').map(Number));
  const masks = JSON.parse(readFileSync(join(FOLDER, model, 'masks.json'), 'utf8')) as Masks;

  it.each(masks.kvpress)('at $head_compression_ratio', (expected) => {
    const streaming = streamingHeads(gates, expected.head_compression_ratio);
    expect(streaming.map((row) => row.map(Number).join(''))).toEqual(expected.streaming_stable);
    expect(streaming.flat().filter(Boolean)).toHaveLength(expected.n_streaming);
  });
});

it('takes gates outside of [0, 1] for 0 or 1, and equal ones in order', () => {
  expect(
    streamingHeads(
      [
        [1.5, -0.25],
        [1, 0],
      ],
      0.75,
    ),
  ).toEqual([
    [true, true],
    [false, true],
  ]);
  expect(
    streamingHeads(
      [
        [0.5, 0.5],
        [0.5, 0.5],
      ],
      0.5,
    ),
  ).toEqual([
    [true, true],
    [false, false],
  ]);
});
