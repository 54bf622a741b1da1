/** AuxCache against a map of rows: whatever is put and taken, each row is the one that was put, and the pool knows the bytes. */
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { AuxCache, auxBytes } from '../../src/kv/aux-cache.ts';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { SequenceCache } from '../../src/kv/sequence-cache.ts';

const MAX_ROWS = 300;
const NUM_LAYERS = 3;

afterEach(() => {
  vi.restoreAllMocks();
});

/** The row of a position, told apart from those of other layers and of earlier puts. */
function row(seed: number, layer: number, position: number, width: number): number[] {
  return Array.from({ length: width }, (_, i) => seed * 1e5 + layer * 1e4 + position * 8 + i / 128);
}

class Modelled {
  readonly aux: AuxCache;
  /** By layer, then by position. */
  readonly rows: Map<number, number[]>[];

  constructor(aux: AuxCache, rows = Array.from({ length: NUM_LAYERS }, () => new Map<number, number[]>())) {
    this.aux = aux;
    this.rows = rows;
  }

  /** False, and nothing changed, if the pool has no room. */
  put(layer: number, positions: readonly number[], seed: number, width: number): boolean {
    const rows = this.rows[layer]!;
    const added = positions.filter((position) => !rows.has(position));
    if (!this.aux.reserve(layer, added.length)) return false;
    for (const position of added) rows.set(position, row(seed, layer, position, width));
    const values = Float32Array.from(added.flatMap((position) => rows.get(position)!));
    this.aux.put(layer, Int32Array.from(added), values);
    return true;
  }

  /** Takes those of the positions that are there, in their order. */
  take(layer: number, positions: readonly number[]): void {
    const rows = this.rows[layer]!;
    const there = positions.filter((position) => rows.has(position));
    const taken = this.aux.take(layer, Int32Array.from(there));
    expect(taken).toEqual(Float32Array.from(there.flatMap((position) => rows.get(position)!)));
    for (const position of there) rows.delete(position);
  }

  fork(aux: AuxCache): Modelled | null {
    const rows = this.rows.map((own) => new Map(own));
    if (aux.copyFrom(this.aux)) return new Modelled(aux, rows);
    aux.free();
    return null;
  }

  /** What it occupies depends on the number of rows alone. */
  expectSound(width: number): void {
    const counts = this.rows.map((rows) => rows.size);
    expect(this.aux.bytes).toBe(counts.reduce((sum, numRows) => sum + auxBytes(width, numRows), 0));
    expect(this.aux.rowBytes).toBe(counts.reduce((sum, numRows) => sum + numRows * width * 4, 0));
    expect(this.aux.numBuffers).toBe(counts.filter((numRows) => numRows > 0).length);
    this.rows.forEach((rows, layer) => {
      for (let position = 0; position < MAX_ROWS; position += 7)
        expect(this.aux.has(layer, position)).toBe(rows.has(position));
    });
  }
}

const positions = fc.uniqueArray(fc.nat({ max: MAX_ROWS - 1 }), { maxLength: 120 });
const operation = fc.record({
  type: fc.constantFrom('put', 'put', 'take', 'take', 'fork', 'free'),
  cache: fc.nat({ max: 2 }),
  layer: fc.nat({ max: NUM_LAYERS - 1 }),
  positions,
});

function expectCounted(all: readonly Modelled[], pool: BytePool): void {
  expect(pool.usedBytes).toBe(all.reduce((sum, { aux }) => sum + aux.bytes, 0));
  expect(pool.usedBuffers).toBe(all.reduce((sum, { aux }) => sum + aux.numBuffers, 0));
}

describe('AuxCache', () => {
  it('is a map from layer and position to rows, and its bytes are the pool’s', () => {
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 40 }),
        fc.constantFrom(3, 64, 150),
        fc.constantFrom(20, 400, 1e9),
        (operations, width, limitPages) => {
          const pool = new BytePool(limitPages * 4096, 12);
          const open = (): AuxCache => new AuxCache(pool, width, MAX_ROWS);
          const all = [0, 1, 2].map(() => new Modelled(open()));
          operations.forEach(({ type, cache, layer, positions: own }, seed) => {
            const modelled = all[cache]!;
            if (type === 'put') modelled.put(layer, own, seed, width);
            if (type === 'take') modelled.take(layer, own);
            if (type === 'fork') {
              const target = (cache + 1) % all.length;
              all[target]!.aux.free();
              all[target] = modelled.fork(open()) ?? new Modelled(open());
            }
            if (type === 'free') {
              modelled.aux.free();
              all[cache] = new Modelled(open());
            }
            for (const each of all) each.expectSound(width);
            expectCounted(all, pool);
          });
          for (const [layer] of all[0]!.rows.entries())
            for (const { rows, aux } of all) {
              const rest = [...rows[layer]!.keys()];
              const values = rest.flatMap((position) => rows[layer]!.get(position)!);
              expect(aux.take(layer, Int32Array.from(rest))).toEqual(Float32Array.from(values));
            }
          expect([pool.usedBytes, pool.usedBuffers]).toEqual([0, 0]);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('holds each position once, takes what is there, and asks for room first', () => {
    const aux = new AuxCache(new BytePool(1e6), 4, MAX_ROWS);
    const put = (numRows: number) => () => {
      aux.put(1, Int32Array.of(7).slice(0, numRows), new Float32Array(4));
    };
    expect(put(1)).toThrow('invariant');
    expect(aux.reserve(1, 1)).toBe(true);
    expect(put(0), 'rows without a position').toThrow('invariant');
    put(1)();
    aux.reserve(1, 1);
    expect(put(1), 'a second time').toThrow('invariant');
    expect(() => aux.take(1, Int32Array.of(8))).toThrow('invariant');
    expect(() => aux.reserve(1, MAX_ROWS)).toThrow('invariant');
    expect(() => new AuxCache(new BytePool(1e6), 0, MAX_ROWS).reserve(1, 1)).toThrow('invariant');
  });

  it('counts nothing when the system refuses', () => {
    const pool = new BytePool(1e6);
    const aux = new AuxCache(pool, 64, MAX_ROWS);
    vi.spyOn(ArrayBuffer.prototype, 'resize').mockImplementation(() => {
      throw new RangeError('no memory');
    });
    expect(aux.reserve(0, 5)).toBe(false);
    expect([pool.usedBytes, pool.usedBuffers, aux.bytes]).toEqual([0, 0, 0]);
  });
});

describe('as a part of a sequence’s cache', () => {
  const SHAPE = [{ kvHeads: 1, headDim: 16 }];
  const open = (pool: BytePool): SequenceCache => {
    const cache = new SequenceCache(pool, SHAPE, MAX_ROWS, 64);
    expect(cache.reserve(10)).toBe(true);
    expect(cache.reserveAux(0, 20)).toBe(true);
    cache.aux.put(
      0,
      Int32Array.from({ length: 20 }, (_, i) => i),
      new Float32Array(20 * 64).fill(5),
    );
    return cache;
  };
  const pages = (numPages: number): number => numPages * 4096;

  it('is counted, copied with it and freed with it', () => {
    const pool = new BytePool(1e6);
    const cache = open(pool);
    expect([cache.bytes, pool.usedBytes]).toEqual([pages(4), pages(4)]);
    const copy = cache.fork()!;
    // The heads are empty: only rows were copied.
    expect([copy.bytes, pool.usedBytes]).toEqual([pages(2), pages(6)]);
    cache.free();
    expect(copy.aux.take(0, Int32Array.of(3))).toEqual(new Float32Array(64).fill(5));
    expect([pool.usedBytes, pool.usedBuffers]).toEqual([copy.bytes, copy.numBuffers]);
    copy.free();
    expect([pool.usedBytes, pool.usedBuffers]).toEqual([0, 0]);
    expect(() => copy.reserveAux(0, 1)).toThrow('invariant');
  });

  it('is copied whole or not at all', () => {
    // Heads of 2 buffers, rows in 2: the copy's heads are empty.
    for (const pool of [new BytePool(pages(5) + pages(3) - 1), new BytePool(1e6, 5)]) {
      const cache = open(pool);
      cache.reserveAux(1, 1);
      cache.aux.put(1, Int32Array.of(3), new Float32Array(64));
      expect([cache.bytes, cache.numBuffers]).toEqual([pages(5), 4]);
      expect(cache.fork()).toBeNull();
      expect([pool.usedBytes, pool.usedBuffers]).toEqual([pages(5), 4]);
    }
  });
});
