/** Reads tensors out of a Hugging Face checkpoint: one `model.safetensors` or shards named by an index. */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { basename, join } from 'node:path';
import * as z from 'zod';
import { AppError, errorMessage } from '../errors.ts';

/** Little-endian float formats that checkpoints come in, with their bytes per element. */
const ELEMENT_BYTES = { F32: 4, F16: 2, BF16: 2 } as const;
type FloatFormat = keyof typeof ELEMENT_BYTES;

function isFloatFormat(dtype: string): dtype is FloatFormat {
  return Object.hasOwn(ELEMENT_BYTES, dtype);
}

const MAX_HEADER_BYTES = 100 << 20;

export interface TensorInfo {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

interface TensorLocation extends TensorInfo {
  readonly file: string;
  readonly fd: number;
  /** Absolute byte range in the file. */
  readonly begin: number;
  readonly end: number;
}

const headerEntry = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});
const shardIndex = z.object({ weight_map: z.record(z.string(), z.string()) });

function corrupt(file: string, why: string): AppError {
  return new AppError('startup', `${file} is not a valid safetensors file: ${why}`);
}

/** Parses a file's header. @throws AppError `startup` when it is truncated or inconsistent. */
function readHeader(file: string, fd: number): TensorLocation[] {
  const fileBytes = fstatSync(fd).size;
  const prefix = Buffer.alloc(8);
  if (readSync(fd, prefix, 0, 8, 0) < 8) throw corrupt(file, `expected at least 8 bytes, got ${fileBytes}`);
  const headerBytes = Number(prefix.readBigUInt64LE());
  if (headerBytes > MAX_HEADER_BYTES || 8 + headerBytes > fileBytes) {
    throw corrupt(file, `header of ${headerBytes} bytes in a file of ${fileBytes}`);
  }
  const text = Buffer.alloc(headerBytes);
  readSync(fd, text, 0, headerBytes, 8);
  let header: Record<string, unknown>;
  try {
    header = z.record(z.string(), z.unknown()).parse(JSON.parse(text.toString('utf8')));
  } catch (error) {
    throw corrupt(file, `header is not a JSON object (${errorMessage(error).split('\n', 1).join('')})`);
  }
  const tensors: TensorLocation[] = [];
  for (const [name, raw] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const parsed = headerEntry.safeParse(raw);
    if (!parsed.success) throw corrupt(file, `malformed entry for tensor ${name}`);
    const { dtype, shape, data_offsets: offsets } = parsed.data;
    const begin = 8 + headerBytes + offsets[0];
    const end = 8 + headerBytes + offsets[1];
    if (end < begin || end > fileBytes) {
      throw corrupt(file, `tensor ${name} ends at byte ${end}, the file has ${fileBytes} (truncated?)`);
    }
    if (isFloatFormat(dtype)) {
      const expected = shape.reduce((a, b) => a * b, ELEMENT_BYTES[dtype]);
      if (expected !== end - begin)
        throw corrupt(file, `tensor ${name} expected ${expected} bytes, got ${end - begin}`);
    }
    tensors.push({ name, dtype, shape, file, fd, begin, end });
  }
  return tensors;
}

/** Names of the weight files of a model folder, without reading them. */
export function weightFiles(modelDir: string): string[] {
  const single = join(modelDir, 'model.safetensors');
  if (existsSync(single)) return [single];
  const indexFile = `${single}.index.json`;
  if (!existsSync(indexFile)) {
    throw new AppError(
      'startup',
      `${modelDir}: expected model.safetensors or model.safetensors.index.json, found neither`,
    );
  }
  let index: z.infer<typeof shardIndex>;
  try {
    index = shardIndex.parse(JSON.parse(readFileSync(indexFile, 'utf8')));
  } catch {
    throw new AppError('startup', `${indexFile}: expected a JSON object with a weight_map`);
  }
  const names = [...new Set(Object.values(index.weight_map))].sort();
  const unsafe = names.find((name) => name !== basename(name) || name === '' || name.startsWith('.'));
  if (unsafe !== undefined)
    throw new AppError(
      'startup',
      `${indexFile}: shard name ${JSON.stringify(unsafe)} is not a plain file name`,
    );
  return names.map((name) => join(modelDir, name));
}

/** The tensors of one checkpoint; keeps its files open until `close()`. */
export class Checkpoint {
  readonly #tensors = new Map<string, TensorLocation>();
  readonly #fds: number[] = [];

  /** @throws AppError `startup` naming the file that is missing or corrupt. */
  constructor(modelDir: string) {
    try {
      for (const file of weightFiles(modelDir)) this.#open(file);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #open(file: string): void {
    let fd: number;
    try {
      fd = openSync(file, 'r');
    } catch (error) {
      throw new AppError('startup', `cannot open weights: ${errorMessage(error)}`);
    }
    this.#fds.push(fd);
    for (const tensor of readHeader(file, fd)) this.#tensors.set(tensor.name, tensor);
  }

  get names(): IterableIterator<string> {
    return this.#tensors.keys();
  }

  find(name: string): TensorInfo | undefined {
    return this.#tensors.get(name);
  }

  /** Rows [firstRow, firstRow + numRows) of a tensor whose first axis is rows, widened exactly to float32. */
  readRows(name: string, firstRow: number, numRows: number): Float32Array {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new AppError('startup', `weights have no tensor ${name}`);
    const format = tensor.dtype;
    if (!isFloatFormat(format)) {
      throw new AppError('startup', `tensor ${name}: expected F32, F16 or BF16, got ${format}`);
    }
    const width = tensor.shape.slice(1).reduce((a, b) => a * b, 1);
    const rowBytes = width * ELEMENT_BYTES[format];
    const bytes = Buffer.allocUnsafeSlow(numRows * rowBytes);
    const read = readSync(tensor.fd, bytes, 0, bytes.length, tensor.begin + firstRow * rowBytes);
    if (read !== bytes.length) throw corrupt(tensor.file, `tensor ${name} could not be read in full`);
    return widen(format, bytes);
  }

  /** A whole tensor, widened exactly to float32, in row-major order. */
  read(name: string): Float32Array {
    return this.readRows(name, 0, this.find(name)?.shape[0] ?? 1);
  }

  close(): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd);
  }
}

/** @param bytes an unshared buffer at offset 0 */
function widen(format: FloatFormat, bytes: Buffer): Float32Array {
  if (format === 'F32') return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  const bits = new Uint32Array(halves.length);
  if (format === 'BF16') for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] ?? 0) << 16;
  else for (let i = 0; i < halves.length; i++) bits[i] = halfToFloatBits(halves[i] ?? 0);
  return new Float32Array(bits.buffer);
}

/** IEEE 754 binary16 bits -> binary32 bits of the same value. */
function halfToFloatBits(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (mantissa << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (mantissa === 0) return sign;
  const shift = Math.clz32(mantissa) - 21; // brings the leading one to bit 10
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
}
