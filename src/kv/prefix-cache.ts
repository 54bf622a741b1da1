/** Finished sequences' K and V, kept so that a prompt with the same beginning need not compute it again. */
import { invariant } from '../errors.ts';
import type { BytePool } from './byte-pool.ts';
import { bytesFor, type SequenceCache } from './sequence-cache.ts';

interface Entry {
  /** One id for each cache entry, in order. */
  readonly ids: Int32Array;
  readonly salt: string;
  readonly cache: SequenceCache;
}

export interface TakeOptions {
  /** Fewer available entries are not worth taking. */
  readonly minimum?: number | undefined;
  readonly salt?: string | undefined;
  /** The caller will change what it takes. */
  readonly copies?: boolean;
}

export interface PrefixHit {
  /** Owned by the caller, with exactly `length` entries in every head. */
  readonly cache: SequenceCache;
  readonly length: number;
}

/**
 * Least recently used entries go first. An entry's `salt` stands for everything besides the ids that shaped its K and
 * V; entries of another salt never match. Only unpruned caches are held, since a slot must be its position.
 * No entry is a prefix of another one of the same salt.
 */
export class PrefixCache {
  readonly #pool: BytePool;
  readonly #maxBytes: number;
  /** Least recently used first. */
  #entries: Entry[] = [];
  #queriedTokens = 0;
  #hitTokens = 0;

  constructor(pool: BytePool, maxBytes: number) {
    this.#pool = pool;
    this.#maxBytes = maxBytes;
  }

  /** Resident bytes, a part of what the pool counts. */
  get bytes(): number {
    return sumBytes(this.#entries);
  }

  /** Number of entries. */
  get size(): number {
    return this.#entries.length;
  }

  /** Tokens of all prompts looked up with {@link take}. */
  get queriedTokens(): number {
    return this.#queriedTokens;
  }

  /** Tokens among them that need no computing. */
  get hitTokens(): number {
    return this.#hitTokens;
  }

  /**
   * Takes ownership of a finished sequence's cache, which holds one entry per id in every head. Frees it at once when
   * an entry already covers it or it is larger than the whole budget.
   */
  offer(ids: Int32Array, cache: SequenceCache, salt = ''): void {
    invariant(cache.holdsExactly(ids.length), `offered ${ids.length} ids with a cache of another length`);
    const covering = this.#entries.find((entry) => entry.salt === salt && startsWith(entry.ids, ids));
    if (covering) this.#touch(covering);
    cache.truncate(ids.length); // nothing is forgotten: gives back what was reserved ahead
    if (covering || ids.length === 0 || !this.#fits(cache.bytes, cache.numBuffers)) {
      cache.free();
      return;
    }
    for (const entry of this.#entries.filter((e) => e.salt === salt && startsWith(ids, e.ids))) {
      this.#remove(entry).free();
    }
    let bytes = this.bytes + cache.bytes;
    let numBuffers = this.#entries.reduce((sum, entry) => sum + entry.cache.numBuffers, cache.numBuffers);
    while (!this.#fits(bytes, numBuffers)) {
      const oldest = this.#entries[0];
      invariant(oldest, 'the cache alone fits');
      bytes -= oldest.cache.bytes;
      numBuffers -= oldest.cache.numBuffers;
      this.#remove(oldest).free();
    }
    this.#entries.push({ ids: ids.slice(), salt, cache });
  }

  /** Entries that {@link take} would find for these ids: at most `ids.length - 1`. No side effect. */
  match(ids: Int32Array, salt = ''): number {
    return this.#longest(ids, salt)?.length ?? 0;
  }

  /**
   * The longest available beginning of `ids`, at most `ids.length - 1` entries: the last prompt token is always
   * computed, for its logits. Null when fewer than `minimum` (>= 1) are available.
   *
   * With `copies` no entry is moved or cut: null if there is no room for a copy.
   *
   * Otherwise an entry that `ids` contains completely (a conversation that goes on) is moved out; another one is copied, and when
   * memory is short, at the cost of the least recently used others or, where even that is not enough, of its own rest.
   */
  take(ids: Int32Array, { minimum = 1, salt = '', copies = false }: TakeOptions = {}): PrefixHit | null {
    invariant(minimum >= 1, `at least ${minimum} tokens were wanted`);
    this.#queriedTokens += ids.length;
    const best = this.#longest(ids, salt);
    if (!best || best.length < minimum) return null;
    const { entry, length } = best;
    const copy = startsWith(ids, entry.ids) && !copies ? null : this.#copy(entry, length);
    if (copies && copy === null) return null;
    this.#hitTokens += length;
    if (copy) {
      this.#touch(entry);
      return { cache: copy, length };
    }
    const cache = this.#remove(entry);
    cache.truncate(length);
    return { cache, length };
  }

  /**
   * Frees least recently used entries until the pool has `bytes` free or no entry is left.
   * Returns the bytes that this freed: 0 also when enough was free before.
   */
  evict(bytes: number): number {
    let freedBytes = 0;
    while (this.#pool.freeBytes < bytes) {
      const oldest = this.#entries[0];
      if (!oldest) break;
      freedBytes += oldest.cache.bytes;
      this.#remove(oldest).free();
    }
    return freedBytes;
  }

  /** Frees every entry. */
  clear(): void {
    for (const { cache } of this.#entries) cache.free();
    this.#entries = [];
  }

  /** Short entries use up buffers before bytes; half of them stay for running sequences. */
  #fits(bytes: number, numBuffers: number): boolean {
    return bytes <= this.#maxBytes && numBuffers <= this.#pool.limitBuffers / 2;
  }

  #longest(ids: Int32Array, salt: string): { entry: Entry; length: number } | null {
    const limit = ids.length - 1;
    let best: { entry: Entry; length: number } | null = null;
    // From the newest: equally good entries are likelier to be still in the processor's cache, and to stay.
    for (const entry of this.#entries.toReversed()) {
      const bar = best?.length ?? 0;
      if (bar >= limit) break;
      // Only an entry that agrees at the bar can pass it.
      if (entry.salt !== salt || entry.ids.length <= bar || entry.ids[bar] !== ids[bar]) continue;
      const length = sharedLength(entry.ids, ids, limit);
      if (length > bar) best = { entry, length };
    }
    return best;
  }

  /** Null when not even the eviction of all other entries would make room. */
  #copy(entry: Entry, length: number): SequenceCache | null {
    const others = this.#entries.filter((other) => other !== entry);
    if (bytesFor(entry.cache.shape, length) > this.#pool.freeBytes + sumBytes(others)) return null;
    for (;;) {
      const copy = entry.cache.fork(length);
      if (copy) return copy;
      const oldest = others.shift();
      if (!oldest) return null;
      this.#remove(oldest).free();
    }
  }

  #touch(entry: Entry): void {
    this.#remove(entry);
    this.#entries.push(entry);
  }

  /** The caller owns the cache afterwards. */
  #remove(entry: Entry): SequenceCache {
    const index = this.#entries.indexOf(entry);
    invariant(index >= 0, 'a removed entry was present');
    this.#entries.splice(index, 1);
    return entry.cache;
  }
}

function sumBytes(entries: readonly Entry[]): number {
  return entries.reduce((sum, { cache }) => sum + cache.bytes, 0);
}

/** How many ids both begin with, at most `limit`. */
export function sharedLength(a: Int32Array, b: Int32Array, limit: number): number {
  const end = Math.min(a.length, b.length, limit);
  let length = 0;
  while (length < end && a[length] === b[length]) length++;
  return length;
}

function startsWith(ids: Int32Array, beginning: Int32Array): boolean {
  return (
    beginning.length <= ids.length && sharedLength(ids, beginning, beginning.length) === beginning.length
  );
}
