/** The engine's KV memory: gives sequences their caches, takes them back, and keeps what later prompts may reuse. */
import { AppError } from '../errors.ts';
import { BytePool } from '../kv/byte-pool.ts';
import { checkIntegrity } from '../kv/integrity.ts';
import { PrefixCache } from '../kv/prefix-cache.ts';
import { bytesFor, type KvShape, SequenceCache } from '../kv/sequence-cache.ts';
import type { EngineStats } from './protocol.ts';
import type { Sequence } from './sequence.ts';

export interface MemoryOptions {
  /** Bytes that all sequences and the prefix cache may hold. */
  readonly kvMaxBytes: number;
  /** Bytes of them that the prefix cache may hold. */
  readonly prefixCacheMaxBytes: number;
}

type MemoryState = Pick<
  EngineStats,
  'kvBytes' | 'kvBytesByKind' | 'prefixCacheBytes' | 'kvLimitBytes' | 'kvLimitTokens'
>;

/** The prefix cache gives way to running sequences; running sequences never give way here (preemption is the engine's). */
export class Memory {
  readonly #pool: BytePool;
  readonly #prefix: PrefixCache;
  readonly #shape: KvShape;
  readonly #contextLength: number;

  constructor(shape: KvShape, contextLength: number, options: MemoryOptions) {
    this.#shape = shape;
    this.#contextLength = contextLength;
    this.#pool = new BytePool(options.kvMaxBytes);
    this.#prefix = new PrefixCache(this.#pool, Math.min(options.prefixCacheMaxBytes, options.kvMaxBytes));
  }

  /** Bytes of running sequences, of kept prefixes, and the limit of both together. */
  get bytes(): MemoryState {
    const prefixCacheBytes = this.#prefix.bytes;
    const kvBytes = this.#pool.usedBytes - prefixCacheBytes;
    const kvLimitBytes = this.#pool.limitBytes;
    const tokenBytes = bytesFor(this.#shape, this.#contextLength) / this.#contextLength;
    return {
      kvBytes,
      kvBytesByKind: { dense: kvBytes, retrieval: 0, streaming: 0, pruned: 0 },
      prefixCacheBytes,
      kvLimitBytes,
      kvLimitTokens: Math.floor(kvLimitBytes / tokenBytes),
    };
  }

  /** @throws AppError `kv_memory_exceeded` when so many tokens do not fit even if nothing else runs */
  assertFits(numTokens: number): void {
    const bytes = bytesFor(this.#shape, numTokens);
    if (bytes <= this.#pool.limitBytes) return;
    throw new AppError(
      'kv_memory_exceeded',
      `expected at most ${this.#pool.limitBytes} bytes of KV cache, the request needs ${bytes}`,
    );
  }

  /** Reserves room for `numEntries` in all. False, and nothing changed for the sequence, if there is none. */
  reserve(cache: SequenceCache, numEntries: number): boolean {
    if (cache.reserve(numEntries)) return true;
    this.#prefix.evict(bytesFor(this.#shape, numEntries) - cache.bytes);
    return cache.reserve(numEntries);
  }

  /** Gives a waiting sequence a cache with room for all its tokens, from a kept prefix where there is one. */
  open(sequence: Sequence): boolean {
    const { ids } = sequence;
    const { cachePrompt, promptLogprobs } = sequence.request.input;
    const needed = bytesFor(this.#shape, ids.length);
    // Wait until enough is free beside what the prefix cache could give up.
    if (needed > this.#pool.freeBytes + this.#prefix.bytes) return false;
    // A prompt that is to be scored needs the logits of all its tokens.
    const hit = cachePrompt && promptLogprobs === null ? this.#prefix.take(ids) : null;
    const cache = hit?.cache ?? new SequenceCache(this.#pool, this.#shape, this.#contextLength);
    if (!this.reserve(cache, ids.length)) {
      if (hit === null) cache.free();
      else this.#prefix.offer(ids.subarray(0, hit.length), cache);
      return false;
    }
    sequence.cache = cache;
    sequence.numComputed = hit?.length ?? 0;
    return true;
  }

  /** A copy of what a sequence has computed. Null if there is no room for it. */
  fork({ cache, numComputed }: Sequence): SequenceCache | null {
    if (cache === null) return null;
    const copy = cache.fork(numComputed);
    const bytes = bytesFor(this.#shape, numComputed);
    if (copy !== null || bytes > this.#pool.freeBytes + this.#prefix.bytes) return copy;
    this.#prefix.evict(bytes);
    return cache.fork(numComputed);
  }

  /** Takes a sequence's cache back; keeps it for later prompts if the request allows and every layer is complete. */
  close(sequence: Sequence): void {
    const { cache, numComputed } = sequence;
    const mayKeep = cache !== null && sequence.request.input.cachePrompt && numComputed > 0;
    if (mayKeep && cache.holdsExactly(numComputed)) {
      this.#prefix.offer(sequence.ids.subarray(0, numComputed), cache);
      sequence.cache = null;
    } else sequence.releaseCache();
  }

  /** With no sequence alive: throws if the pool counts a byte that nobody holds. */
  checkIdle(): void {
    checkIntegrity(this.#pool, this.#prefix);
  }

  /** Forgets all kept prefixes. */
  clear(): void {
    this.#prefix.clear();
  }
}
