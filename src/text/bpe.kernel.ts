/**
 * Byte-pair encoding of one piece of text, exactly as the reference merges it.
 * The library's model is not used: it takes 0.4 s for 8,000 tokens where pieces are whole texts (Mistral), merges no
 * byte-fallback symbols, and finds control tokens in plain text by name.
 */
import type { BpeConfig } from './tokenizer-file.ts';

const POSITIONS = 2 ** 32;
const CACHED_PIECES = 20_000;
/** Longest piece kept, in UTF-16 units: words repeat, sentences seldom do. */
const CACHED_LENGTH = 48;

export class Bpe {
  /** Token text by id; holes where no token has the id. */
  readonly tokens: string[] = [];
  readonly #vocab = new Map<string, number>();
  readonly #merges: MergeTable;
  readonly #unkId: number | undefined;
  readonly #fuseUnk: boolean;
  readonly #byteIds: readonly number[] | null;
  readonly #ignoreMerges: boolean;
  readonly #reserved: ReadonlySet<number>;
  readonly #cache = new Map<string, readonly number[]>();

  /**
   * @param reserved ids of control tokens: never the result of a merge. Some vocabularies can spell them
   * (`<` + `s>`), which would let a client write control tokens.
   * @throws Error if an id is no integer, or a merge names no token of the vocabulary.
   */
  constructor(config: BpeConfig, reserved: ReadonlySet<number>) {
    for (const [token, id] of Object.entries(config.vocab)) {
      if (!Number.isInteger(id) || id < 0 || id >= 2 ** 31)
        throw new Error(`model.vocab: expected an id, got ${id}`);
      this.#vocab.set(token, id);
      this.tokens[id] = token;
    }
    this.#merges = new MergeTable(config.merges, this.#vocab, reserved);
    this.#unkId = config.unk_token == null ? undefined : this.#vocab.get(config.unk_token);
    this.#fuseUnk = config.fuse_unk ?? false;
    this.#ignoreMerges = config.ignore_merges ?? false;
    this.#reserved = reserved;
    this.#byteIds = config.byte_fallback === true ? this.#findByteIds() : null;
  }

  /** Appends the ids of `piece` to `out`. */
  encode(piece: string, out: number[]): void {
    if (piece.length > CACHED_LENGTH) {
      for (const id of this.#merge(piece)) out.push(id);
      return;
    }
    let ids = this.#cache.get(piece);
    if (ids === undefined) {
      ids = Array.from(this.#merge(piece));
      if (this.#cache.size >= CACHED_PIECES) this.#cache.clear();
      this.#cache.set(piece, ids);
    }
    for (const id of ids) out.push(id);
  }

  #merge(piece: string): readonly number[] | Int32Array {
    const whole = this.#ignoreMerges ? this.#vocab.get(piece) : undefined;
    if (whole !== undefined && !this.#reserved.has(whole)) return [whole];
    const symbols = this.#symbols(piece);
    return symbols.length < 2 ? symbols : mergeSymbols(Int32Array.from(symbols), this.#merges);
  }

  /** One id per character; bytes, or the unknown token, where the vocabulary lacks it. */
  #symbols(piece: string): number[] {
    const symbols: number[] = [];
    let unknown = false;
    for (const character of piece) {
      const id = this.#vocab.get(character);
      if (id === undefined) {
        const bytes = this.#bytesOf(character);
        // The reference leaves a pending unknown token pending here, too.
        if (bytes !== null) symbols.push(...bytes);
        else if (this.#unkId !== undefined) {
          if (unknown && !this.#fuseUnk) symbols.push(this.#unkId);
          unknown = true;
        }
        continue;
      }
      if (unknown) symbols.push(this.#unkId!);
      unknown = false;
      symbols.push(id);
    }
    if (unknown) symbols.push(this.#unkId!);
    return symbols;
  }

  #bytesOf(character: string): number[] | null {
    if (this.#byteIds === null) return null;
    const ids = Array.from(Buffer.from(character, 'utf8'), (byte) => this.#byteIds![byte]!);
    return ids.includes(-1) ? null : ids;
  }

  /** Id of `<0x00>` to `<0xFF>`, -1 where the vocabulary lacks it. */
  #findByteIds(): number[] {
    return Array.from({ length: 256 }, (_, byte) => {
      const hex = byte.toString(16).toUpperCase().padStart(2, '0');
      return this.#vocab.get(`<0x${hex}>`) ?? -1;
    });
  }
}

/** (left id, right id) -> rank -> merged id: open addressing, since half a million pairs make a slow Map. */
class MergeTable {
  /** Merged id by rank. */
  readonly merged: Int32Array;
  readonly #mask: number;
  /** [slot, (left, right, rank + 1)]; rank + 1 = 0 marks an empty slot. */
  readonly #slots: Int32Array;

  constructor(merges: readonly unknown[], vocab: ReadonlyMap<string, number>, reserved: ReadonlySet<number>) {
    const capacity = 2 ** Math.ceil(Math.log2(2 * merges.length + 2));
    this.#mask = capacity - 1;
    this.#slots = new Int32Array(3 * capacity);
    this.merged = new Int32Array(merges.length);
    for (let rank = 0; rank < merges.length; rank++) {
      const [left, right] = parseMerge(merges[rank], rank);
      const leftId = vocab.get(left);
      const rightId = vocab.get(right);
      const mergedId = vocab.get(left + right);
      if (leftId === undefined || rightId === undefined || mergedId === undefined) {
        throw new Error(`model.merges.${rank}: expected tokens of the vocabulary, got ${left} ${right}`);
      }
      this.merged[rank] = mergedId;
      if (reserved.has(mergedId)) continue;
      const slot = this.#slot(leftId, rightId);
      this.#slots[slot] = leftId;
      this.#slots[slot + 1] = rightId;
      this.#slots[slot + 2] = rank + 1;
    }
  }

  /** Rank of the pair (lower merges first), -1 for a pair that never merges. */
  rankOf(left: number, right: number): number {
    return this.#slots[this.#slot(left, right) + 2]! - 1;
  }

  #slot(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    for (let index = hash & this.#mask; ; index = (index + 1) & this.#mask) {
      const slot = 3 * index;
      if (this.#slots[slot + 2] === 0) return slot;
      if (this.#slots[slot] === left && this.#slots[slot + 1] === right) return slot;
    }
  }
}

function parseMerge(merge: unknown, rank: number): [string, string] {
  const parts: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
  if (
    !Array.isArray(parts) ||
    parts.length !== 2 ||
    typeof parts[0] !== 'string' ||
    typeof parts[1] !== 'string'
  ) {
    throw new Error(`model.merges.${rank}: expected a pair of tokens, got ${JSON.stringify(merge)}`);
  }
  return [parts[0], parts[1]];
}

/**
 * Merges neighbours, lowest rank first, leftmost first among equals, until no pair is left.
 * A heap and a linked list: n log n, so that a piece may be as long as the prompt.
 * @param symbols ids, [length >= 2]; overwritten.
 */
function mergeSymbols(symbols: Int32Array, merges: MergeTable): Int32Array {
  const length = symbols.length;
  const next = Int32Array.from(symbols, (_, i) => (i + 1 < length ? i + 1 : -1));
  const previous = Int32Array.from(symbols, (_, i) => i - 1);
  const heap = new Heap(3 * length);
  const enqueue = (left: number): void => {
    if (left < 0 || next[left]! < 0) return;
    const rank = merges.rankOf(symbols[left]!, symbols[next[left]!]!);
    if (rank >= 0) heap.push(rank * POSITIONS + left);
  };
  for (let i = 0; i + 1 < length; i++) enqueue(i);
  while (heap.size > 0) {
    const key = heap.pop();
    const rank = Math.floor(key / POSITIONS);
    const left = key - rank * POSITIONS;
    const right = next[left]!;
    if (symbols[left] === -1 || right < 0) continue;
    // The pair may have changed since it was queued; the reference goes by the merged id, not by the rank.
    const current = merges.rankOf(symbols[left]!, symbols[right]!);
    if (current < 0 || merges.merged[current] !== merges.merged[rank]) continue;
    symbols[left] = merges.merged[rank]!;
    symbols[right] = -1;
    next[left] = next[right]!;
    if (next[left] >= 0) previous[next[left]] = left;
    enqueue(previous[left]!);
    enqueue(left);
  }
  return symbols.filter((id) => id !== -1);
}

/** Binary min-heap of float64 keys. */
class Heap {
  size = 0;
  readonly #keys: Float64Array;

  constructor(capacity: number) {
    this.#keys = new Float64Array(capacity);
  }

  push(key: number): void {
    const keys = this.#keys;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent]! <= key) break;
      keys[at] = keys[parent]!;
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number {
    const keys = this.#keys;
    const top = keys[0]!;
    const last = keys[--this.size]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && keys[child + 1]! < keys[child]!) child++;
      if (keys[child]! >= last) break;
      keys[at] = keys[child]!;
      at = child;
    }
    keys[at] = last;
    return top;
  }
}
