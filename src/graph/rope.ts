/** Rotary position embedding: inverse frequencies of each scaling type, and cosine / sine rows for positions. */
import { AppError } from '../errors.ts';
import type { RopeConfig } from './model-config.ts';

export interface RopeFrequencies {
  /** [headDim / 2] angle per position. */
  readonly inverse: Float64Array;
  /** Factor on cosine and sine (YaRN's attention temperature). */
  readonly scale: number;
}

type Scaling = (inverse: Float64Array, config: RopeConfig, headDim: number) => RopeFrequencies;

function need(config: RopeConfig, key: 'factor' | 'low_freq_factor' | 'high_freq_factor'): number {
  const value = config[key];
  if (value === undefined)
    throw new AppError('startup', `config.json: rope type ${config.ropeType} needs ${key}`);
  return value;
}

/** Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended linearly. */
const llama3: Scaling = (inverse, config) => {
  const factor = need(config, 'factor');
  const low = need(config, 'low_freq_factor');
  const high = need(config, 'high_freq_factor');
  const original = config.original_max_position_embeddings ?? 0;
  const scaled = inverse.map((frequency) => {
    const turns = (original * frequency) / (2 * Math.PI); // full turns over the original context
    if (turns < low) return frequency / factor;
    if (turns > high) return frequency;
    const smooth = (turns - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
  return { inverse: scaled, scale: 1 };
};

/** YaRN (arXiv 2309.00071): ramps from interpolated to original frequencies between two numbers of turns. */
const yarn: Scaling = (inverse, config, headDim) => {
  const factor = need(config, 'factor');
  const original = config.original_max_position_embeddings ?? 0;
  const temperature = (mscale: number): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const { mscale, mscale_all_dim: mscaleAll } = config;
  const scale =
    config.attention_factor ??
    (mscale && mscaleAll ? temperature(mscale) / temperature(mscaleAll) : temperature(1));
  /** Index of the frequency that makes so many turns over the original context. */
  const indexOfTurns = (turns: number): number =>
    (headDim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(config.theta));
  const round = config.truncate === false ? (x: number): number => x : null;
  const low = Math.max((round ?? Math.floor)(indexOfTurns(config.beta_fast ?? 32)), 0);
  const high = Math.min((round ?? Math.ceil)(indexOfTurns(config.beta_slow ?? 1)), headDim - 1);
  const span = low === high ? 0.001 : high - low;
  const scaled = inverse.map((frequency, i) => {
    const interpolated = Math.min(Math.max((i - low) / span, 0), 1);
    return (frequency / factor) * interpolated + frequency * (1 - interpolated);
  });
  return { inverse: scaled, scale };
};

const SCALINGS: Readonly<Record<string, Scaling>> = {
  default: (inverse) => ({ inverse, scale: 1 }),
  linear: (inverse, config) => ({ inverse: inverse.map((f) => f / need(config, 'factor')), scale: 1 }),
  llama3,
  yarn,
};

/** @throws AppError `startup` for a rope type that is not supported. */
export function ropeFrequencies(config: RopeConfig, headDim: number): RopeFrequencies {
  const scaling = Object.hasOwn(SCALINGS, config.ropeType) ? SCALINGS[config.ropeType] : undefined;
  if (scaling === undefined) {
    const known = Object.keys(SCALINGS).join(', ');
    throw new AppError(
      'startup',
      `config.json: rope type expected one of ${known}, got ${JSON.stringify(config.ropeType)}`,
    );
  }
  const inverse = Float64Array.from({ length: headDim / 2 }, (_, i) => config.theta ** ((-2 * i) / headDim));
  return scaling(inverse, config, headDim);
}

/** Cosine and sine of every position, computed on first use and kept. */
export class RopeTable {
  readonly #frequencies: RopeFrequencies;
  readonly #half: number;
  /** [positions, headDim / 2] */
  #cosine = new Float32Array(0);
  #sine = new Float32Array(0);

  constructor(frequencies: RopeFrequencies) {
    this.#frequencies = frequencies;
    this.#half = frequencies.inverse.length;
  }

  /** Rows for ascending or arbitrary positions: cos and sin, each [positions.length, headDim / 2]. */
  rows(positions: Int32Array): { cos: Float32Array; sin: Float32Array } {
    const half = this.#half;
    this.#extend(positions.reduce((a, b) => Math.max(a, b), 0) + 1);
    const cos = new Float32Array(positions.length * half);
    const sin = new Float32Array(positions.length * half);
    positions.forEach((position, row) => {
      cos.set(this.#cosine.subarray(position * half, (position + 1) * half), row * half);
      sin.set(this.#sine.subarray(position * half, (position + 1) * half), row * half);
    });
    return { cos, sin };
  }

  /** Rows for the consecutive positions begin..end-1, as views of the table. */
  range(begin: number, end: number): { cos: Float32Array; sin: Float32Array } {
    this.#extend(end);
    const [from, to] = [begin * this.#half, end * this.#half];
    return { cos: this.#cosine.subarray(from, to), sin: this.#sine.subarray(from, to) };
  }

  #extend(numPositions: number): void {
    const known = this.#cosine.length / this.#half;
    if (numPositions <= known) return;
    const size = Math.max(numPositions, 2 * known, 256) * this.#half;
    const cosine = new Float32Array(size);
    const sine = new Float32Array(size);
    cosine.set(this.#cosine);
    sine.set(this.#sine);
    const scale = this.#frequencies.scale;
    // Single precision where HF transformers rounds, so that long contexts agree with it.
    const inverse = Float32Array.from(this.#frequencies.inverse);
    for (let i = known * this.#half; i < size; i++) {
      const angle = Math.fround(Math.floor(i / this.#half) * (inverse[i % this.#half] ?? 0));
      cosine[i] = Math.cos(angle) * scale;
      sine[i] = Math.sin(angle) * scale;
    }
    this.#cosine = cosine;
    this.#sine = sine;
  }
}
