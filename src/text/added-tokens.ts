/** Finds added tokens (control tokens and other fixed strings) in text, before anything else cuts it. */
import { createTrie, insertIntoTrie } from './trie.ts';
import type { AddedToken } from './tokenizer-file.ts';

/** A stretch of text, or a token found; `start` in UTF-16 units. */
export type Segment =
  | { readonly start: number; readonly text: string; readonly token?: undefined }
  | { readonly start: number; readonly text: string; readonly token: AddedToken };

const WHITE_SPACE_BEFORE = /\p{White_Space}$/u;
const WHITE_SPACE_AFTER = /\p{White_Space}*/uy;
const WORD_BEFORE = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const WORD_AFTER = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

/** Leftmost, then longest. */
export class AddedTokenFinder {
  readonly #root = createTrie<AddedToken>();

  /** `contentOf`: the string to look for, where that is not the token's own content. */
  constructor(tokens: readonly AddedToken[], contentOf = (token: AddedToken) => token.content) {
    for (const token of tokens) {
      // Normalising may leave nothing of it.
      const content = contentOf(token);
      if (content !== '') insertIntoTrie(this.#root, content, token);
    }
  }

  /** All of `text` in order; no segment of text is empty. */
  split(text: string): Segment[] {
    const segments: Segment[] = [];
    if (this.#root.children.size === 0) return text === '' ? [] : [{ start: 0, text }];
    let done = 0;
    for (let at = 0; at < text.length;) {
      const found = this.#matchAt(text, at);
      if (found === null) {
        at++;
        continue;
      }
      const end = at + found.length;
      if (found.token.single_word && touchesWord(text, at, end)) {
        at = end;
        continue;
      }
      const start = found.token.lstrip ? trimmedEnd(text, done, at) : at;
      if (start > done) segments.push({ start: done, text: text.slice(done, start) });
      done = found.token.rstrip ? spaceEnd(text, end) : end;
      segments.push({ start, text: text.slice(start, done), token: found.token });
      at = done;
    }
    if (done < text.length) segments.push({ start: done, text: text.slice(done) });
    return segments;
  }

  #matchAt(text: string, start: number): { token: AddedToken; length: number } | null {
    let best: { token: AddedToken; length: number } | null = null;
    let node = this.#root.children.get(text.charCodeAt(start));
    for (let at = start + 1; node !== undefined; at++) {
      if (node.value !== null) best = { token: node.value, length: at - start };
      node = at < text.length ? node.children.get(text.charCodeAt(at)) : undefined;
    }
    return best;
  }
}

function touchesWord(text: string, start: number, end: number): boolean {
  return (
    WORD_BEFORE.test(text.slice(Math.max(0, start - 2), start)) || WORD_AFTER.test(text.slice(end, end + 2))
  );
}

/** Where the white space that ends at `end` begins, not before `from`. */
function trimmedEnd(text: string, from: number, end: number): number {
  let start = end;
  while (start > from && WHITE_SPACE_BEFORE.test(text.charAt(start - 1))) start--;
  return start;
}

function spaceEnd(text: string, start: number): number {
  WHITE_SPACE_AFTER.lastIndex = start;
  WHITE_SPACE_AFTER.test(text);
  return WHITE_SPACE_AFTER.lastIndex;
}
