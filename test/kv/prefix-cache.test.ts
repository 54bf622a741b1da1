/** PrefixCache against a naive model: right content, never more than shared, every byte owned by somebody. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { checkIntegrity } from '../../src/kv/integrity.ts';
import { PrefixCache } from '../../src/kv/prefix-cache.ts';
import { bytesFor, SequenceCache, type KvShape } from '../../src/kv/sequence-cache.ts';
import { fill, readEntries } from './fill.ts';

const SHAPE: KvShape = [
  { kvHeads: 2, headDim: 16 },
  { kvHeads: 1, headDim: 16 },
];
const MAX_ENTRIES = 400;

/** Stands for K and V: entry i depends on the salt and on all ids up to i, as it does in a model. */
function contentOf(ids: ArrayLike<number>, salt = ''): number[] {
  let hash = salt.length + 1;
  return Array.from(ids, (id) => (hash = (hash * 31 + id + 7) % 1_000_003));
}

function sequence(pool: BytePool, ids: Int32Array, salt = ''): SequenceCache {
  const cache = new SequenceCache(pool, SHAPE, MAX_ENTRIES);
  fill(cache, Float32Array.from(contentOf(ids, salt)));
  return cache;
}

function shared(a: Int32Array, b: Int32Array): number {
  const end = Math.min(a.length, b.length);
  for (let i = 0; i < end; i++) if (a[i] !== b[i]) return i;
  return end;
}

function idsOf(text: string): Int32Array {
  return Int32Array.from(text, (c) => c.charCodeAt(0));
}

/** A pool with room for this many sequences of up to 64 entries, and a prefix cache with no limit of its own. */
function setUp({ room = 100, maxBytes = 1e9, limitBuffers = 10_000 } = {}) {
  const pool = new BytePool(room * bytesFor(SHAPE, 64), limitBuffers);
  const prefixes = new PrefixCache(pool, maxBytes);
  const offer = (text: string, salt?: string): void => {
    prefixes.offer(idsOf(text), sequence(pool, idsOf(text), salt), salt);
  };
  const take = (text: string, minimum?: number, salt?: string) => {
    const hit = prefixes.take(idsOf(text), { minimum, salt });
    if (hit) expect(readEntries(hit.cache)).toEqual(contentOf(idsOf(text).subarray(0, hit.length), salt));
    return hit;
  };
  return { pool, prefixes, offer, take };
}

/** Few letters in blocks, so that prompts share beginnings of many lengths and cross the rounding steps. */
const ids = fc
  .tuple(
    fc.array(fc.nat({ max: 1 }), { maxLength: 5 }),
    fc.constantFrom(1, 40),
    fc.array(fc.nat({ max: 1 }), { maxLength: 2 }),
  )
  .map(([blocks, size, tail]) =>
    Int32Array.from([...blocks.flatMap((id) => Array<number>(size).fill(id)), ...tail]),
  );
const salt = fc.constantFrom('', '', 'x');
const step = fc.oneof(
  fc.record({ type: fc.constant('offer' as const), ids, salt }),
  fc.record({ type: fc.constant('take' as const), ids, salt, minimum: fc.integer({ min: 1, max: 60 }) }),
  fc.record({ type: fc.constant('evict' as const), bytes: fc.nat({ max: 100_000 }) }),
);

describe('PrefixCache with memory to spare', () => {
  it('always finds exactly the longest shared prefix, as a naive list does', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
        const pool = new BytePool(1e9);
        const prefixes = new PrefixCache(pool, 1e9);
        let model: { ids: Int32Array; salt: string }[] = [];
        let queried = 0;
        let hit = 0;
        for (const op of steps) {
          if (op.type === 'evict') continue;
          if (op.type === 'offer') {
            prefixes.offer(op.ids, sequence(pool, op.ids, op.salt), op.salt);
            const same = (e: { salt: string }) => e.salt === op.salt;
            if (op.ids.length > 0 && !model.some((e) => same(e) && shared(e.ids, op.ids) === op.ids.length)) {
              model = model.filter((e) => !(same(e) && shared(e.ids, op.ids) === e.ids.length));
              model.push({ ids: op.ids, salt: op.salt });
            }
          } else {
            const lengths = model.filter((e) => e.salt === op.salt).map((e) => shared(e.ids, op.ids));
            const best = Math.max(0, Math.min(op.ids.length - 1, Math.max(0, ...lengths)));
            expect(prefixes.match(op.ids, op.salt)).toBe(best);
            const taken = prefixes.take(op.ids, { minimum: op.minimum, salt: op.salt });
            expect(taken?.length ?? 0).toBe(best >= op.minimum ? best : 0);
            queried += op.ids.length;
            hit += taken?.length ?? 0;
            if (taken) {
              expect(readEntries(taken.cache)).toEqual(contentOf(op.ids.subarray(0, best), op.salt));
              expect(pool.usedBytes).toBe(prefixes.bytes + taken.cache.bytes);
              taken.cache.free();
              // An entry within the prompt is moved out; at equal length a longer one may have been copied instead.
              if (prefixes.size < model.length) {
                const moved = model.findIndex(
                  (e) => e.salt === op.salt && shared(e.ids, op.ids) === e.ids.length && e.ids.length >= best,
                );
                expect(moved).toBeGreaterThanOrEqual(0);
                model.splice(moved, 1);
              }
            }
          }
          expect(prefixes.size).toBe(model.length);
          checkIntegrity(pool, prefixes);
        }
        expect(prefixes.queriedTokens).toBe(queried);
        expect(prefixes.hitTokens).toBe(hit);
        prefixes.clear();
        checkIntegrity(pool);
      }),
      { numRuns: 150 },
    );
  });
});

describe('PrefixCache in little memory', () => {
  it('returns only true content, stays within its budget and leaks nothing', () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 25 }),
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 12 }),
        (steps, room, budget) => {
          const unit = bytesFor(SHAPE, 64);
          const pool = new BytePool(room * unit);
          const prefixes = new PrefixCache(pool, budget * unit);
          const running: SequenceCache[] = [];
          const offered: { ids: Int32Array; salt: string }[] = [];
          for (const op of steps) {
            if (op.type === 'evict') {
              const before = prefixes.bytes;
              expect(prefixes.evict(op.bytes)).toBe(before - prefixes.bytes);
              expect(pool.freeBytes >= op.bytes || prefixes.size === 0).toBe(true);
            } else if (op.type === 'offer') {
              if (bytesFor(SHAPE, op.ids.length) > pool.freeBytes) continue;
              prefixes.offer(op.ids, sequence(pool, op.ids, op.salt), op.salt);
              offered.push(op);
            } else {
              const available = prefixes.match(op.ids, op.salt);
              const taken = prefixes.take(op.ids, { minimum: op.minimum, salt: op.salt });
              // There is always a way: at worst the entry itself is cut.
              expect(taken?.length ?? 0).toBe(available >= op.minimum ? available : 0);
              if (taken) {
                const same = offered.filter((e) => e.salt === op.salt);
                expect(taken.length).toBeLessThanOrEqual(Math.max(...same.map((e) => shared(e.ids, op.ids))));
                expect(readEntries(taken.cache)).toEqual(
                  contentOf(op.ids.subarray(0, taken.length), op.salt),
                );
                running.push(taken.cache);
                if (running.length > 2) running.shift()?.free();
              }
            }
            expect(prefixes.bytes).toBeLessThanOrEqual(budget * unit);
            checkIntegrity(pool, prefixes, ...running);
          }
          for (const cache of running) cache.free();
          prefixes.clear();
          checkIntegrity(pool);
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('PrefixCache', () => {
  it('moves an entry out when the conversation goes on, copies it when it branches', () => {
    const { pool, prefixes, offer, take } = setUp();
    offer('system hello');
    const branch = take('system what');
    expect(branch?.length).toBe(7);
    expect(prefixes.size).toBe(1);
    const next = take('system hello there');
    expect(next?.length).toBe(12);
    expect(prefixes.size).toBe(0);
    expect(prefixes.bytes).toBe(0);
    branch?.cache.free();
    next?.cache.free();
    checkIntegrity(pool);
  });

  it('leaves the last prompt token to be computed', () => {
    const { prefixes, offer, take } = setUp();
    offer('same');
    expect(prefixes.match(idsOf('same'))).toBe(3);
    expect(take('same')?.length).toBe(3);
    offer('same');
    expect(take('s')).toBeNull();
    expect(take('')).toBeNull();
  });

  it('never matches across salts', () => {
    const { prefixes, offer, take } = setUp();
    offer('prompt', 'image-1');
    expect(take('prompt and more')).toBeNull();
    expect(take('prompt and more', 1, 'image-2')).toBeNull();
    expect(prefixes.match(idsOf('prompt and more'), 'image-1')).toBe(6);
    offer('prompt');
    expect(prefixes.size).toBe(2);
    expect(take('prompt and more', 1, 'image-1')?.length).toBe(6);
  });

  it('gives nothing below the minimum and counts the query all the same', () => {
    const { prefixes, offer, take } = setUp();
    offer('abc');
    expect(take('abcdef', 4)).toBeNull();
    expect(prefixes.size).toBe(1);
    expect([prefixes.queriedTokens, prefixes.hitTokens]).toEqual([6, 0]);
    expect(take('abcdef', 3)?.length).toBe(3);
    expect([prefixes.queriedTokens, prefixes.hitTokens]).toEqual([12, 3]);
  });

  it('keeps the longer of two where one begins the other, and frees the rest', () => {
    const { pool, prefixes, offer } = setUp();
    offer('abc');
    offer('abcdef');
    expect(prefixes.size).toBe(1);
    offer('abcd');
    expect(prefixes.size).toBe(1);
    expect(prefixes.match(idsOf('abcdefg'))).toBe(6);
    checkIntegrity(pool, prefixes);
  });

  it('gives back what an offered cache had reserved ahead', () => {
    const { pool, prefixes } = setUp();
    const cache = sequence(pool, idsOf('abc'));
    cache.reserve(300);
    prefixes.offer(idsOf('abc'), cache);
    expect(prefixes.bytes).toBe(bytesFor(SHAPE, 3));
    checkIntegrity(pool, prefixes);
  });

  it('does not follow a caller who writes into the offered ids', () => {
    const { pool, prefixes } = setUp();
    const mine = idsOf('abc');
    prefixes.offer(mine, sequence(pool, mine));
    mine.fill(0);
    expect(prefixes.match(idsOf('abcd'))).toBe(3);
  });

  it('refuses a cache that is not exactly as long as its ids', () => {
    const { pool, prefixes } = setUp();
    const cache = sequence(pool, idsOf('abc'));
    expect(() => {
      prefixes.offer(idsOf('abcd'), cache);
    }).toThrow('invariant');
    cache.heads(0)[0]?.keep([0, 2]);
    expect(() => {
      prefixes.offer(idsOf('abc'), cache);
    }).toThrow('invariant');
  });

  it('drops the least recently used entry first, and using means taking or offering again', () => {
    const { prefixes, offer, take } = setUp({ maxBytes: 3 * bytesFor(SHAPE, 64) });
    for (const text of ['a-one', 'b-two', 'c-three']) offer(text);
    take('a-other')?.cache.free();
    offer('b-t');
    offer('d-four');
    expect(['a-one!', 'b-two!', 'c-three!', 'd-four!'].map((text) => prefixes.match(idsOf(text)))).toEqual([
      5, 5, 0, 6,
    ]);
  });

  it('frees an offer that is larger than the whole budget and keeps the others', () => {
    const { pool, prefixes, offer } = setUp({ maxBytes: bytesFor(SHAPE, 64) });
    offer('abc');
    offer('z'.repeat(65));
    expect(prefixes.match(idsOf('abcd'))).toBe(3);
    expect(prefixes.size).toBe(1);
    checkIntegrity(pool, prefixes);
  });

  it('holds at most half of the buffers', () => {
    const { pool, prefixes, offer } = setUp({ limitBuffers: 25 });
    for (const text of ['a', 'b', 'c', 'd']) offer(text);
    expect(prefixes.size).toBe(2);
    expect(pool.usedBuffers).toBe(12);
  });

  it('makes room for a copy by evicting others when that is enough', () => {
    const { pool, prefixes, offer, take } = setUp({ room: 3 });
    for (const text of ['abc', 'x', 'y']) offer(text);
    const hit = take('abz');
    expect(hit?.length).toBe(2);
    expect([prefixes.match(idsOf('abcd')), prefixes.match(idsOf('xx')), prefixes.match(idsOf('yy'))]).toEqual(
      [3, 0, 1],
    );
    checkIntegrity(pool, prefixes, hit!.cache);
  });

  it('cuts the entry itself, sparing the others, when evicting them would not be enough', () => {
    const { pool, prefixes, offer, take } = setUp({ room: 4 });
    offer('y');
    offer('a'.repeat(190));
    const hit = take(`${'a'.repeat(150)}b`);
    expect(hit?.length).toBe(150);
    expect(prefixes.size).toBe(1);
    expect(prefixes.match(idsOf('yy'))).toBe(1);
    checkIntegrity(pool, prefixes, hit!.cache);
  });

  it('evicts until as many bytes are free as were asked for', () => {
    const unit = bytesFor(SHAPE, 64);
    const { pool, prefixes, offer } = setUp({ room: 4 });
    for (const text of ['a', 'b', 'c']) offer(text);
    expect(prefixes.evict(unit)).toBe(0);
    expect(prefixes.evict(unit + 1)).toBe(unit);
    expect(prefixes.match(idsOf('aa'))).toBe(0);
    expect(prefixes.evict(100 * unit)).toBe(2 * unit);
    expect(pool.usedBytes).toBe(0);
  });

  it('matches long prompts against many entries in time that no request would notice', () => {
    const { pool, prefixes } = setUp({ room: 1e6 });
    const prompt = Int32Array.from({ length: MAX_ENTRIES }, (_, i) => i);
    for (let n = 0; n < 60; n++) {
      const mine = prompt.with(MAX_ENTRIES - 60 + n, -1);
      prefixes.offer(mine, sequence(pool, mine));
    }
    expect(prefixes.size).toBe(60);
    const start = performance.now();
    for (let i = 0; i < 100; i++) expect(prefixes.match(prompt)).toBe(MAX_ENTRIES - 1);
    expect((performance.now() - start) / 100).toBeLessThan(5);
  });
});
