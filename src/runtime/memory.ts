/**
 * The engine's KV memory, auxiliary caches included: gives sequences their caches, takes them back, and keeps what later
 * prompts may reuse.
 */
import { AppError } from '../errors.ts';
import { auxBytes } from '../kv/aux-cache.ts';
import { BytePool } from '../kv/byte-pool.ts';
import { LARGEST_STEP } from '../kv/head-cache.ts';
import { checkIntegrity } from '../kv/integrity.ts';
import { PrefixCache, type PrefixHit, sharedLength } from '../kv/prefix-cache.ts';
import { bytesFor, type KvShape, SequenceCache } from '../kv/sequence-cache.ts';
import type { ActivePolicies } from '../policies/index.ts';
import type { Model } from './model.ts';
import type { EngineStats, KvBytesByKind } from './protocol.ts';
import { peakBytes } from './pruning/footprint.ts';
import { SequencePruning } from './pruning/sequence-pruning.ts';
import type { LiveRequest, Sequence } from './sequence.ts';

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

/**
 * Last rows of a prompt that must be computed, whatever is kept of it: those that its policies hear. All, where they
 * choose among the tokens themselves, add up over all rows, or make other entries than those that are kept.
 */
function rowsHeard({ tokens, kv, layers }: ActivePolicies): number {
  if (tokens !== null || layers !== null) return Infinity;
  if (kv?.kind !== 'evict') return 1;
  if (kv.needsQueries || kv.observes === 'all' || kv.observes === 'repeated') return Infinity;
  return kv.observes === 'window' ? kv.window : 1;
}

/** The prefix cache gives way to running sequences; running sequences never give way here (preemption is the engine's). */
export class Memory {
  readonly #pool: BytePool;
  readonly #prefix: PrefixCache;
  readonly #model: Model;
  readonly #shape: KvShape;
  readonly #contextLength: number;
  readonly #hiddenSize: number;

  constructor(model: Model, options: MemoryOptions) {
    this.#model = model;
    this.#shape = model.kvShape;
    this.#contextLength = model.info.contextLength;
    this.#hiddenSize = model.architecture.config.hiddenSize;
    this.#pool = new BytePool(options.kvMaxBytes);
    this.#prefix = new PrefixCache(this.#pool, Math.min(options.prefixCacheMaxBytes, options.kvMaxBytes));
  }

  /** Bytes of running sequences, of kept prefixes, and the limit of both together. */
  state(running: readonly Sequence[]): MemoryState {
    const prefixCacheBytes = this.#prefix.bytes;
    const kvBytes = this.#pool.usedBytes - prefixCacheBytes;
    const kvLimitBytes = this.#pool.limitBytes;
    const tokenBytes = bytesFor(this.#shape, this.#contextLength) / this.#contextLength;
    const kinds = { retrieval: 0, streaming: 0, pruned: 0 };
    for (const { pruning } of running) pruning?.addBytes(kinds);
    const dense = kvBytes - kinds.retrieval - kinds.streaming - kinds.pruned;
    const kvBytesByKind: KvBytesByKind = { dense, ...kinds };
    const kvLimitTokens = Math.floor(kvLimitBytes / tokenBytes);
    return { kvBytes, kvBytesByKind, prefixCacheBytes, kvLimitBytes, kvLimitTokens };
  }

  /** @throws AppError `kv_memory_exceeded` when the request does not fit even if nothing else runs */
  assertFits(request: LiveRequest): void {
    const bytes = this.#needed(request, request.input.promptIds.length, request.input.maxTokens);
    if (bytes <= this.#pool.limitBytes) return;
    throw new AppError(
      'kv_memory_exceeded',
      `expected at most ${this.#pool.limitBytes} bytes of KV cache, the request needs ${bytes}`,
    );
  }

  #needed({ policies }: LiveRequest, promptTokens: number, newTokens: number): number {
    if (policies === null) return bytesFor(this.#shape, promptTokens + newTokens);
    return peakBytes(policies, this.#model, { promptTokens, newTokens });
  }

  /** Reserves room for `numEntries` in all. False, and nothing changed for the sequence, if there is none. */
  reserve(cache: SequenceCache, numEntries: number): boolean {
    if (cache.reserve(numEntries)) return true;
    this.#prefix.evict(bytesFor(this.#shape, numEntries) - cache.bytes);
    return cache.reserve(numEntries);
  }

  /** Makes room for `numRows` more entries in each head, or in those of one layer. False if there is none. */
  reserveMore(cache: SequenceCache, numRows: number, layer?: number): boolean {
    return this.#grow(bytesFor(this.#shape, numRows + LARGEST_STEP), () => cache.reserveMore(numRows, layer));
  }

  /** Makes room for `numRows` more rows that stop after a layer. False if there is none. */
  reserveAux(cache: SequenceCache, numRows: number, layer: number): boolean {
    return this.#grow(auxBytes(this.#hiddenSize, numRows), () => cache.reserveAux(layer, numRows));
  }

  /** Tries once more if kept prefixes could give up something of these bytes. */
  #grow(bytes: number, reserve: () => boolean): boolean {
    return reserve() || (this.#prefix.evict(bytes) > 0 && reserve());
  }

  /**
   * Gives a waiting sequence a cache, with what is kept of its beginning or what one of the others has computed of it;
   * unpruned, with room for all its tokens.
   */
  open(sequence: Sequence, others: readonly Sequence[]): boolean {
    const { request, prefillEnd } = sequence;
    const needed = this.#needed(request, prefillEnd, sequence.numTokens - prefillEnd);
    // Wait until enough is free beside what the prefix cache could give up.
    if (needed > this.#pool.freeBytes + this.#prefix.bytes) return false;
    const hit = this.#takePrefix(sequence, others);
    const cache = hit?.cache ?? this.#empty(request);
    const start = hit?.length ?? 0;
    if (request.policies !== null) {
      sequence.pruning = new SequencePruning(request.policies, this.#model, cache, start);
    } else if (!this.reserve(cache, prefillEnd)) {
      if (hit === null) cache.free();
      else this.#prefix.offer(sequence.ids.subarray(0, start), cache);
      return false;
    }
    sequence.cache = cache;
    sequence.numComputed = start;
    return true;
  }

  /** A layer whose attention is left out holds no cache. */
  #empty({ policies }: LiveRequest): SequenceCache {
    const runs = policies?.layers?.attention;
    const shape = this.#shape.map((layer, i) => (runs?.[i] === false ? { ...layer, kvHeads: 0 } : layer));
    return new SequenceCache(this.#pool, shape, this.#contextLength, this.#hiddenSize);
  }

  #takePrefix({ request, ids, prefillEnd }: Sequence, others: readonly Sequence[]): PrefixHit | null {
    const { input, policies } = request;
    // A prompt that is to be scored needs the logits of all its tokens.
    if (!input.cachePrompt || input.promptLogprobs !== null) return null;
    const numHeard = policies === null ? 1 : rowsHeard(policies);
    if (numHeard >= prefillEnd) return null;
    const wanted = ids.subarray(0, prefillEnd - numHeard + 1);
    // Pruning must not reach what is kept for others.
    return this.#copyRunning(wanted, others) ?? this.#prefix.take(wanted, { copies: policies !== null });
  }

  /** A copy of the longest beginning of `ids` that a running sequence has computed, if it is longer than the kept ones. */
  #copyRunning(ids: Int32Array, others: readonly Sequence[]): PrefixHit | null {
    let length = this.#prefix.match(ids);
    let longest: SequenceCache | null = null;
    for (const { request, cache, ids: computed, numComputed } of others) {
      if (cache === null || request.policies !== null || !request.input.cachePrompt) continue;
      const shared = sharedLength(ids, computed, Math.min(numComputed, ids.length - 1));
      if (shared <= length) continue;
      length = shared;
      longest = cache;
    }
    const copy = longest?.fork(length) ?? null;
    return copy === null ? null : { cache: copy, length };
  }

  /** A copy of what a sequence has computed, given to another one. False if there is no room for it. */
  fork(source: Sequence, target: Sequence): boolean {
    const { cache, numComputed, pruning } = source;
    if (cache === null) return false;
    const numEntries = pruning === null ? numComputed : undefined;
    let copy = cache.fork(numEntries);
    if (copy === null && cache.bytes <= this.#pool.freeBytes + this.#prefix.bytes) {
      this.#prefix.evict(cache.bytes);
      copy = cache.fork(numEntries);
    }
    if (copy === null) return false;
    target.cache = copy;
    target.pruning = pruning?.clone(copy) ?? null;
    target.numComputed = numComputed;
    return true;
  }

  /** Takes a sequence's cache back; keeps it for later prompts if the request allows and every layer is complete. */
  close(sequence: Sequence): void {
    const { cache, numComputed, pruning } = sequence;
    const isWhole = cache !== null && pruning === null && numComputed > 0;
    if (isWhole && sequence.request.input.cachePrompt && cache.holdsExactly(numComputed)) {
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
