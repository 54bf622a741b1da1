/** Finds where text written by a client names a control token, or might once a template puts other text behind it. */
import { createTrie, insertIntoTrie } from './trie.ts';

export class ControlTextFinder {
  readonly #root = createTrie<true>();

  constructor(controlTexts: readonly string[]) {
    for (const text of controlTexts) insertIntoTrie(this.#root, foldCase(text), true);
  }

  /**
   * Offsets, ascending, at which a control token's text begins. Letter case is ignored, since a template may change it;
   * a beginning cut off by the end of the text (or by white space there, which a template may trim) counts as well.
   */
  starts(text: string): number[] {
    const folded = foldCase(text.trimEnd());
    const starts: number[] = [];
    for (let start = 0; start < folded.length; start++) {
      if (this.#mayBeginAt(folded, start)) starts.push(start);
    }
    return starts;
  }

  #mayBeginAt(folded: string, start: number): boolean {
    let node = this.#root.children.get(folded.charCodeAt(start));
    for (let at = start + 1; node !== undefined; at++) {
      if (node.value !== null || at === folded.length) return true;
      node = node.children.get(folded.charCodeAt(at));
    }
    return false;
  }
}

/** ASCII only: offsets must stay as they are. */
function foldCase(text: string): string {
  return text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}
