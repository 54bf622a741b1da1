/** Turns a growing completion into text, token by token, never emitting half a character. */
import type { Tokenizer } from './tokenizer.ts';

const REPLACEMENT = '\uFFFD';
/** Most tokens withheld: a character has 4 bytes, so a longer run is broken text, which is then let go as U+FFFD. */
const MAX_WITHHELD = 32;
/** Prompt tokens that decide how the completion's first token reads. */
const CONTEXT_TOKENS = 8;

/**
 * Keeps a window of ids: those of the last text released, which tell how the next token reads (does it begin a word
 * or a text?), then those withheld. Constant cost per token, however long the completion is.
 */
export class Detokenizer {
  readonly #tokenizer: Tokenizer;
  #window: number[];
  /** Ids of the window whose text is out. */
  #numReleased: number;
  /** Text of the released ids alone. */
  #released: string;

  /**
   * @param precedingIds prompt that the completion goes on from; only its tail is read. Text after a control token
   * begins anew, so that a reply after `[/INST]` starts without the space that decoders strip from a text's start.
   */
  constructor(tokenizer: Tokenizer, precedingIds: ArrayLike<number> = []) {
    this.#tokenizer = tokenizer;
    const { ids, numComplete } = promptContext(tokenizer, precedingIds);
    this.#window = ids;
    this.#numReleased = numComplete;
    this.#released = tokenizer.decode(ids.slice(0, numComplete));
  }

  /**
   * The text that is certain now, or ''. A U+FFFD at the end waits for the next token: it may become a character.
   * Control tokens, and ids of the head's padding rows that have no token, add no text.
   */
  push(id: number): string {
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

/** The tail of a prompt, beginning with a whole character; ids from `numComplete` on are of an unfinished one. */
function promptContext(
  tokenizer: Tokenizer,
  prompt: ArrayLike<number>,
): { ids: number[]; numComplete: number } {
  let start = prompt.length;
  while (start > 0) {
    const id = prompt[start - 1] ?? -1;
    if (tokenizer.specialIds.has(id) || !tokenizer.has(id)) break;
    const first = tokenizer.tokenBytes(prompt[start] ?? -1)[0] ?? 0;
    if (prompt.length - start >= CONTEXT_TOKENS && !isContinuation(first)) break;
    start--;
  }
  const ids: number[] = [];
  for (let i = start; i < prompt.length; i++) ids.push(prompt[i] ?? -1);
  return { ids, numComplete: ids.length - numUnfinished(tokenizer, ids) };
}

/** How many of the last ids belong to a character whose bytes are not all there. */
function numUnfinished(tokenizer: Tokenizer, ids: readonly number[]): number {
  let numBytes = 0;
  for (let count = 1; count <= Math.min(4, ids.length); count++) {
    const bytes = tokenizer.tokenBytes(ids[ids.length - count] ?? -1);
    for (let i = bytes.length - 1; i >= 0; i--) {
      numBytes++;
      const byte = bytes[i] ?? 0;
      if (isContinuation(byte)) continue;
      const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
      return numBytes < needed ? count : 0;
    }
  }
  return 0;
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80;
}
