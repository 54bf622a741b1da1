/** Checkpoints: every float widened exactly, and every damaged file refused by name. */
import { readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Checkpoint, weightFiles } from '../../src/graph/safetensors.ts';
import { makeDir, safetensors, startupMessage, tempDir, tensor, withHeader } from './checkpoint-files.ts';
import type { TensorBytes } from './checkpoint-files.ts';

/** A checkpoint with one tensor `w`. */
function single(w: TensorBytes, damage?: Parameters<typeof safetensors>[1]): string {
  return makeDir({ 'model.safetensors': safetensors({ w }, damage) });
}

function read(w: TensorBytes): Float32Array {
  const checkpoint = new Checkpoint(single(w));
  const values = checkpoint.read('w');
  checkpoint.close();
  return values;
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/** Value of a binary16 number by its definition; the bits of a NaN are compared elsewhere. */
function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? 2 ** -14 * fraction : 2 ** (exponent - 15) * (1 + fraction));
}

const ALL_HALVES = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);

describe('widening to float32', () => {
  it('gives the value of each of the 65,536 binary16 numbers', () => {
    const values = read(tensor('F16', [256, 256], ALL_HALVES));
    const wrong = [...ALL_HALVES].filter((bits) => !Object.is(values[bits], halfValue(bits)));
    expect(wrong).toEqual([]);
  });

  it('puts each of the 65,536 bfloat16 numbers into the upper half of the bits', () => {
    const bits = bitsOf(read(tensor('BF16', [256, 256], ALL_HALVES)));
    expect(bits.every((value, i) => value === (i << 16) >>> 0)).toBe(true);
  });

  it('keeps the bits of float32: subnormal, infinite, negative zero, NaN with a payload', () => {
    const bits = Uint32Array.of(
      1,
      0x007fffff,
      0x00800000,
      0x7f800000,
      0xff800000,
      0x80000000,
      0x7fc00123,
      0x3f800001,
    );
    expect(bitsOf(read(tensor('F32', [2, 4], bits)))).toEqual(bits);
  });

  it('reads rows from the middle of a tensor that is not the first', () => {
    const first = tensor('BF16', [3], Uint16Array.of(1, 2, 3));
    const w = tensor('F32', [4, 2], Float32Array.of(0, 1, 10, 11, 20, 21, 30, 31));
    const checkpoint = new Checkpoint(makeDir({ 'model.safetensors': safetensors({ first, w }) }));
    expect([...checkpoint.readRows('w', 1, 2)]).toEqual([10, 11, 20, 21]);
    expect([...checkpoint.names]).toEqual(['first', 'w']);
    expect(checkpoint.find('w')).toMatchObject({ dtype: 'F32', shape: [4, 2] });
    checkpoint.close();
  });

  it('reads a scalar, an empty tensor and ignores metadata', () => {
    const tensors = {
      scalar: tensor('F32', [], Float32Array.of(7)),
      empty: tensor('F32', [0, 5], new Float32Array()),
    };
    const file = safetensors(tensors, (header) => Object.assign(header, { __metadata__: { format: 'pt' } }));
    const checkpoint = new Checkpoint(makeDir({ 'model.safetensors': file }));
    expect([...checkpoint.read('scalar')]).toEqual([7]);
    expect(checkpoint.read('empty').length).toBe(0);
    expect([...checkpoint.names]).toEqual(['scalar', 'empty']);
    checkpoint.close();
  });

  it('refuses to read other element types, by the name of the tensor', () => {
    for (const dtype of ['I8', 'F8_E4M3', 'F64', 'toString']) {
      const dir = single(tensor(dtype, [2], Float64Array.of(1, 2)));
      expect(startupMessage(() => new Checkpoint(dir).read('w'))).toBe(
        `tensor w: expected F32, F16 or BF16, got ${dtype}`,
      );
    }
  });

  it('names a tensor that is not there', () => {
    const checkpoint = new Checkpoint(single(tensor('F32', [1], Float32Array.of(1))));
    expect(startupMessage(() => checkpoint.read('x'))).toBe('weights have no tensor x');
    checkpoint.close();
  });
});

describe('damaged files', () => {
  const w = tensor('F32', [2, 2], Float32Array.of(1, 2, 3, 4));
  const huge = Buffer.concat([Buffer.alloc(8, 0xff), Buffer.from('{}')]);
  const cases: [what: string, file: Buffer, message: string][] = [
    ['an empty file', Buffer.alloc(0), 'expected at least 8 bytes, got 0'],
    ['half a length', Buffer.alloc(5), 'expected at least 8 bytes, got 5'],
    ['a header longer than the file', safetensors({ w }).subarray(0, 40), 'in a file of 40'],
    ['a header of 2^64 - 1 bytes', huge, 'in a file of 10'],
    ['data cut off', safetensors({ w }).subarray(0, -1), 'tensor w ends at byte'],
    ['a header that is not JSON', withHeader('{"w":'), 'header is not a JSON object'],
    ['a header that is a list', withHeader('[]'), 'header is not a JSON object'],
    [
      'an entry without offsets',
      withHeader('{"w":{"dtype":"F32","shape":[1]}}'),
      'malformed entry for tensor w',
    ],
    [
      'offsets beyond the file',
      safetensors({ w }, (header) => (header['w']!.data_offsets = [1e6, 1e6 + 16])),
      'tensor w ends at byte',
    ],
    [
      'offsets that run backwards',
      safetensors({ w }, (header) => (header['w']!.data_offsets = [16, 0])),
      'tensor w ends at byte',
    ],
    [
      'a negative offset',
      safetensors({ w }, (header) => (header['w']!.data_offsets = [-8, 8])),
      'malformed entry for tensor w',
    ],
    [
      'a negative dimension',
      safetensors({ w }, (header) => (header['w']!.shape = [-2, -2])),
      'malformed entry for tensor w',
    ],
    [
      'a shape that does not fill its bytes',
      safetensors({ w }, (header) => (header['w']!.shape = [2, 3])),
      'tensor w expected 24 bytes, got 16',
    ],
    [
      'a shape beyond all numbers',
      safetensors({ w }, (header) => (header['w']!.shape = new Array<number>(30).fill(2 ** 50))),
      'tensor w expected',
    ],
  ];
  it.each(cases)('%s', (_, file, message) => {
    const dir = makeDir({ 'model.safetensors': file });
    const got = startupMessage(() => new Checkpoint(dir));
    expect(got).toContain(`${join(dir, 'model.safetensors')} is not a valid safetensors file: `);
    expect(got).toContain(message);
  });

  it('is noticed too when a file shrinks after it was opened', () => {
    const dir = single(w);
    const checkpoint = new Checkpoint(dir);
    truncateSync(join(dir, 'model.safetensors'), 80);
    expect(startupMessage(() => checkpoint.read('w'))).toContain('tensor w could not be read in full');
    checkpoint.close();
  });

  it.runIf(process.platform === 'linux')('leaves no file open', () => {
    const good = safetensors({ w });
    const dir = makeDir({
      'model.safetensors.index.json': { weight_map: { a: 'a.safetensors', w: 'w.safetensors' } },
      'a.safetensors': good,
      'w.safetensors': good.subarray(0, -1),
    });
    const numOpen = (): number => readdirSync('/proc/self/fd').length;
    const before = numOpen();
    startupMessage(() => new Checkpoint(dir));
    expect(numOpen()).toBe(before);
  });
});

describe('sharded checkpoints', () => {
  const shard = (value: number): Buffer =>
    safetensors({ [`w${value}`]: tensor('F32', [1], Float32Array.of(value)) });
  const index = (...names: string[]): object => ({
    metadata: { total_size: 8 },
    weight_map: Object.fromEntries(names.map((name, i) => [`w${i}`, name])),
  });

  it('are read from all files of the index', () => {
    const dir = makeDir({
      'model.safetensors.index.json': index('one.safetensors', 'two.safetensors'),
      'one.safetensors': shard(0),
      'two.safetensors': shard(1),
      'other.safetensors': shard(2),
    });
    expect(weightFiles(dir)).toEqual([join(dir, 'one.safetensors'), join(dir, 'two.safetensors')]);
    const checkpoint = new Checkpoint(dir);
    expect([...checkpoint.read('w0'), ...checkpoint.read('w1')]).toEqual([0, 1]);
    expect(checkpoint.find('w2')).toBeUndefined();
    checkpoint.close();
  });

  it('yield to a single file beside the index', () => {
    const dir = makeDir({
      'model.safetensors.index.json': index('one.safetensors'),
      'model.safetensors': shard(0),
    });
    expect(weightFiles(dir)).toEqual([join(dir, 'model.safetensors')]);
  });

  it('name the shard that is missing', () => {
    const dir = makeDir({ 'model.safetensors.index.json': index('gone.safetensors') });
    expect(startupMessage(() => new Checkpoint(dir))).toContain(join(dir, 'gone.safetensors'));
  });

  it.each(['../secret.safetensors', '/etc/passwd', 'a/b.safetensors', '..', '.hidden', ''])(
    'refuse the shard name %j',
    (name) => {
      const dir = makeDir({ 'model.safetensors.index.json': index('one.safetensors', name) });
      expect(startupMessage(() => weightFiles(dir))).toBe(
        `${join(dir, 'model.safetensors.index.json')}: shard name ${JSON.stringify(name)} is not a plain file name`,
      );
    },
  );

  it.each(['{', '[]', '{"weight_map":{"w":1}}', '{}'])('refuse the index %s', (text) => {
    const dir = tempDir();
    writeFileSync(join(dir, 'model.safetensors.index.json'), text);
    expect(startupMessage(() => weightFiles(dir))).toContain('expected a JSON object with a weight_map');
  });

  it('say what was looked for in a folder without weights', () => {
    const dir = tempDir();
    expect(startupMessage(() => weightFiles(dir))).toBe(
      `${dir}: expected model.safetensors or model.safetensors.index.json, found neither`,
    );
  });
});
