/** Turns a growing completion into text, token by token, never emitting half a character. */
import { decodeLossy } from './token-decoder.ts';
import type { Tokenizer } from './tokenizer.ts';

const REPLACEMENT = '\uFFFD';
/** Most tokens withheld: a character has 4 bytes, so a longer run is broken text, which is then let go as U+FFFD. */
const MAX_WITHHELD = 32;
/** Prompt tokens that decide how the completion's first token reads. */
const CONTEXT_TOKENS = 8;
const CHARACTER_BYTES = 4;

/**
 * Keeps a window of ids: those of the last text released, which tell how the next token reads (does it begin a word
 * or a text?), then those withheld. Constant cost per token, however long the completion is.
 */
export class Detokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #shownIds: ReadonlySet<number>;
  #window: number[];
  /** Ids of the window whose text is out. */
  #numReleased: number;
  /** Text of the released ids alone. */
  #released: string;

  /**
   * @param precedingIds prompt that the completion goes on from; only its tail is read. Text after a control token
   * begins anew, so that a reply after `[/INST]` starts without the space that decoders strip from a text's start.
   * @param shownIds control tokens whose text is wanted, because what they frame is read from the text.
   */
  constructor(
    tokenizer: Tokenizer,
    precedingIds: ArrayLike<number> = [],
    shownIds: ReadonlySet<number> = new Set(),
  ) {
    this.#tokenizer = tokenizer;
    this.#shownIds = shownIds;
    this.#window = promptTail(tokenizer, precedingIds);
    const { numTokens, finishedText } = unfinishedEnd(tokenizer, this.#window);
    this.#numReleased = this.#window.length - numTokens;
    this.#released = tokenizer.decode(this.#window.slice(0, this.#numReleased)) + finishedText;
  }

  /**
   * The text that is certain now, or ''. A U+FFFD at the end waits for the next token: it may become a character.
   * Control tokens that are not shown, and ids of the head's padding rows that have no token, add no text.
   */
  push(id: number): string {
    if (this.#shownIds.has(id)) return this.flush() + this.#tokenizer.tokenText(id);
    if (this.#tokenizer.specialIds.has(id) || !this.#tokenizer.has(id)) return '';
    this.#window.push(id);
    const text = this.#tokenizer.decode(this.#window);
    const withheld = this.#window.length - this.#numReleased;
    const isCertain = text.length > this.#released.length && !text.endsWith(REPLACEMENT);
    if (!isCertain && withheld < MAX_WITHHELD) return '';
    const delta = text.slice(this.#released.length);
    this.#window = this.#window.slice(this.#numReleased);
    this.#numReleased = this.#window.length;
    this.#released = this.#tokenizer.decode(this.#window);
    return delta;
  }

  /** The text withheld until now, at the end of the completion; U+FFFD for a character that was never finished. */
  flush(): string {
    const delta = this.#tokenizer.decode(this.#window).slice(this.#released.length);
    this.#window = [];
    this.#numReleased = 0;
    this.#released = '';
    return delta;
  }
}

/** The last ids of a prompt, beginning with a whole character and after any control token. */
function promptTail(tokenizer: Tokenizer, prompt: ArrayLike<number>): number[] {
  const tail: number[] = [];
  for (let at = prompt.length - 1; at >= 0 && tail.length < CONTEXT_TOKENS + CHARACTER_BYTES; at--) {
    const id = prompt[at] ?? -1;
    if (tokenizer.specialIds.has(id) || !tokenizer.has(id)) break;
    const first = tail[0] === undefined ? 0 : (tokenizer.tokenBytes(tail[0])[0] ?? 0);
    if (tail.length >= CONTEXT_TOKENS && !isContinuation(first)) break;
    tail.unshift(id);
  }
  return tail;
}

/** How many of the last ids hold a character whose bytes are not all there, and the text in them before it. */
function unfinishedEnd(
  tokenizer: Tokenizer,
  ids: readonly number[],
): { numTokens: number; finishedText: string } {
  let bytes: Uint8Array = new Uint8Array();
  for (let numTokens = 1; numTokens <= Math.min(CHARACTER_BYTES, ids.length); numTokens++) {
    bytes = Buffer.concat([tokenizer.tokenBytes(ids[ids.length - numTokens] ?? -1), bytes]);
    const start = bytes.findLastIndex((byte) => !isContinuation(byte));
    if (start < 0) continue;
    const lead = bytes[start] ?? 0;
    const needed = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (bytes.length - start >= needed) break;
    return { numTokens, finishedText: decodeLossy(bytes.subarray(0, start)) };
  }
  return { numTokens: 0, finishedText: '' };
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80;
}
