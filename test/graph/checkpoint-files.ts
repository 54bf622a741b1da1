/** Checkpoint folders made on the spot: safetensors files byte by byte, and a tiny Llama to change at will. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { noise } from './noise.ts';

export interface TensorBytes {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A folder that the running test owns. */
export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'coppice-graph-'));
  onTestFinished(() => {
    rmSync(dir, { recursive: true, force: true });
  });
  return dir;
}

export function tensor(dtype: string, shape: readonly number[], data: ArrayBufferView): TensorBytes {
  return { dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

interface HeaderEntry {
  dtype: unknown;
  shape: unknown;
  data_offsets: [number, number];
}

/** The bytes of a safetensors file; `damage` may change its header before it is written. */
export function safetensors(
  tensors: Readonly<Record<string, TensorBytes>>,
  damage: (header: Record<string, HeaderEntry>) => void = () => undefined,
): Buffer {
  let offset = 0;
  const header: Record<string, HeaderEntry> = {};
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [offset, (offset += bytes.length)] };
  }
  damage(header);
  return withHeader(
    JSON.stringify(header),
    Object.values(tensors).map(({ bytes }) => bytes),
  );
}

/** A file with any text as its header. */
export function withHeader(text: string, data: readonly Uint8Array[] = []): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([prefix, Buffer.from(text), ...data]);
}

/** A folder with these files; objects are written as JSON. */
export function makeDir(files: Readonly<Record<string, unknown>>): string {
  const dir = tempDir();
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(dir, name), content instanceof Uint8Array ? content : JSON.stringify(content));
  }
  return dir;
}

export const TINY = {
  model_type: 'llama',
  vocab_size: 20,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  max_position_embeddings: 64,
} as const;

/** Shapes of all tensors of {@link TINY}, to change before they are filled. */
export function tinyShapes(): Record<string, number[]> {
  const shapes: Record<string, number[]> = {
    'model.embed_tokens.weight': [20, 16],
    'model.norm.weight': [16],
    'lm_head.weight': [20, 16],
  };
  for (let layer = 0; layer < TINY.num_hidden_layers; layer++) {
    const parts = {
      'input_layernorm.weight': [16],
      'self_attn.q_proj.weight': [32, 16],
      'self_attn.k_proj.weight': [16, 16],
      'self_attn.v_proj.weight': [16, 16],
      'self_attn.o_proj.weight': [16, 32],
      'post_attention_layernorm.weight': [16],
      'mlp.gate_proj.weight': [24, 16],
      'mlp.up_proj.weight': [24, 16],
      'mlp.down_proj.weight': [16, 24],
    };
    for (const [name, shape] of Object.entries(parts)) shapes[`model.layers.${layer}.${name}`] = shape;
  }
  return shapes;
}

/** Float32 noise for every shape. */
export function filled(
  shapes: Readonly<Record<string, readonly number[]>>,
  seed = 1,
): Record<string, TensorBytes> {
  const entries = Object.entries(shapes).map(([name, shape], i): [string, TensorBytes] => {
    const size = shape.reduce((a, b) => a * b, 1);
    return [name, tensor('F32', shape, noise(seed + i, size))];
  });
  return Object.fromEntries(entries);
}

/** A folder with a tiny Llama of random weights. */
export function tinyModel(config: object = {}, shapes = tinyShapes()): string {
  return makeDir({ 'config.json': { ...TINY, ...config }, 'model.safetensors': safetensors(filled(shapes)) });
}

/** What an action throws, which must be a `startup` error; its message. */
export function startupMessage(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return startupMessageOf(error);
  }
  throw new Error('expected an error, got none');
}

export function startupMessageOf(error: unknown): string {
  expect(error).toBeInstanceOf(AppError);
  const { errorCode, message } = error as AppError;
  expect(errorCode).toBe('startup');
  return message;
}
