/** Rotary embedding: frequencies of Hugging Face transformers, and rows of angles for any positions. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readModelConfig } from '../../src/graph/model-config.ts';
import type { RopeConfig } from '../../src/graph/model-config.ts';
import { ropeFrequencies, RopeTable } from '../../src/graph/rope.ts';
import { startupMessage } from './checkpoint-files.ts';

const arch = join(import.meta.dirname, '../fixtures/arch');
const plain: RopeConfig = { ropeType: 'default', theta: 10_000, original_max_position_embeddings: 64 };
const scaled = (ropeType: string, more: object = {}): RopeConfig => ({ ...plain, ropeType, ...more });

describe('ropeFrequencies', () => {
  it.each(['llama-gqa-rope3', 'qwen2-yarn'])('equals the reference for %s', (name) => {
    const { rope, headDim } = readModelConfig(join(arch, name));
    const expected = JSON.parse(readFileSync(join(arch, name, 'expected.json'), 'utf8')) as {
      inv_freq: number[];
      attention_scaling: number;
    };
    const { inverse, scale } = ropeFrequencies(rope, headDim);
    expect(inverse.length).toBe(expected.inv_freq.length);
    // The reference has float32 with eight digits.
    inverse.forEach((frequency, i) => {
      expect(Math.abs(frequency / expected.inv_freq[i]! - 1)).toBeLessThan(3e-7);
    });
    expect(scale).toBeCloseTo(expected.attention_scaling, 12);
  });

  it('falls from 1 by powers of theta, divided by the factor of linear scaling', () => {
    const { inverse, scale } = ropeFrequencies(plain, 8);
    expect([...inverse].map((f) => Number(f.toPrecision(12)))).toEqual([1, 0.1, 0.01, 0.001]);
    expect(scale).toBe(1);
    const linear = ropeFrequencies(scaled('linear', { factor: 4 }), 8);
    expect(linear).toEqual({ inverse: inverse.map((f) => f / 4), scale: 1 });
  });

  it('keeps the attention factor and the two mscales of YaRN', () => {
    const scaleOf = (more: object): number =>
      ropeFrequencies(scaled('yarn', { factor: 40, ...more }), 64).scale;
    expect(scaleOf({})).toBeCloseTo(0.1 * Math.log(40) + 1, 12);
    expect(scaleOf({ attention_factor: 1.25 })).toBe(1.25);
    expect(scaleOf({ mscale: 1, mscale_all_dim: 1 })).toBe(1);
    expect(scaleOf({ mscale: 0.707, mscale_all_dim: 1 })).toBeCloseTo(
      (0.0707 * Math.log(40) + 1) / (0.1 * Math.log(40) + 1),
      12,
    );
    expect(scaleOf({ factor: 1 })).toBe(1);
  });

  it('moves the ramp of YaRN with beta_fast, beta_slow and truncate', () => {
    const of = (more: object): Float64Array =>
      ropeFrequencies(scaled('yarn', { factor: 4, original_max_position_embeddings: 4096, ...more }), 64)
        .inverse;
    const usual = of({});
    expect(usual).toEqual(of({ beta_fast: 32, beta_slow: 1, truncate: true }));
    for (const more of [{ beta_fast: 8 }, { beta_slow: 4 }, { truncate: false }]) {
      expect(of(more)).not.toEqual(usual);
    }
    const original = ropeFrequencies(plain, 64).inverse;
    expect(usual[0]).toBe(original[0]);
    expect(usual.at(-1)).toBe(original.at(-1)! / 4);
  });

  it('refuses unknown types and missing parameters', () => {
    for (const type of ['dynamic', 'longrope', 'constructor', '']) {
      expect(startupMessage(() => ropeFrequencies(scaled(type), 8))).toBe(
        `config.json: rope type expected one of default, linear, llama3, yarn, got ${JSON.stringify(type)}`,
      );
    }
    const bands = { factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
    const needed: [type: string, key: string, given: object][] = [
      ['linear', 'factor', {}],
      ['yarn', 'factor', {}],
      ['llama3', 'factor', { ...bands, factor: undefined }],
      ['llama3', 'low_freq_factor', { ...bands, low_freq_factor: undefined }],
      ['llama3', 'high_freq_factor', { ...bands, high_freq_factor: undefined }],
    ];
    for (const [type, key, given] of needed) {
      expect(startupMessage(() => ropeFrequencies(scaled(type, given), 8))).toBe(
        `config.json: rope type ${type} needs ${key}`,
      );
    }
  });
});

describe('RopeTable', () => {
  const inverse = Float64Array.of(1, 0.25, 1 / 64);

  it('gives the same rows whatever was asked before, in any order of positions', () => {
    const position = fc.oneof(fc.nat({ max: 300 }), fc.nat({ max: 2000 }));
    fc.assert(
      fc.property(fc.array(fc.array(position, { maxLength: 8 }), { maxLength: 4 }), (requests) => {
        const table = new RopeTable({ inverse, scale: 1.5 });
        for (const positions of requests) {
          const { cos, sin } = table.rows(Int32Array.from(positions));
          const angles = positions.flatMap((p) => [...inverse].map((f) => p * f));
          expect(cos).toEqual(Float32Array.from(angles, (angle) => Math.cos(angle) * 1.5));
          expect(sin).toEqual(Float32Array.from(angles, (angle) => Math.sin(angle) * 1.5));
        }
      }),
      { numRuns: 30 },
    );
  });

  it('gives ranges that equal rows and outlive the growth of the table', () => {
    const table = new RopeTable({ inverse, scale: 1 });
    const range = table.range(3, 7);
    const late = table.range(900, 902);
    expect(range).toEqual(table.rows(Int32Array.of(3, 4, 5, 6)));
    expect(late).toEqual(table.rows(Int32Array.of(900, 901)));
    expect(table.range(3, 7)).toEqual(range);
  });

  it('rounds frequency and angle to single precision, as the reference does', () => {
    const table = new RopeTable({ inverse: Float64Array.of(0.1), scale: 1 });
    const angle = Math.fround(4097 * Math.fround(0.1));
    expect(table.rows(Int32Array.of(4097)).cos).toEqual(Float32Array.of(Math.cos(angle)));
    expect(Math.fround(Math.cos(angle))).not.toBe(Math.fround(Math.cos(409.7)));
  });
});
