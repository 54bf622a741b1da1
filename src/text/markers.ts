/** Finds marker texts, such as `<think>`, in text that arrives in chunks. */

export type MarkedPiece =
  { readonly type: 'text'; readonly text: string } | { readonly type: 'marker'; readonly text: string };

/** Cuts text at its markers, holding back what may be the beginning of one. No marker may begin with another. */
export class MarkerSplitter {
  readonly #markers: readonly string[];
  #held = '';

  constructor(markers: readonly string[]) {
    this.#markers = markers;
  }

  push(chunk: string): MarkedPiece[] {
    const pieces: MarkedPiece[] = [];
    let text = this.#held + chunk;
    for (let found = this.#first(text); found !== null; found = this.#first(text)) {
      if (found.start > 0) pieces.push({ type: 'text', text: text.slice(0, found.start) });
      pieces.push({ type: 'marker', text: found.marker });
      text = text.slice(found.start + found.marker.length);
    }
    const numHeld = this.#beginning(text);
    this.#held = text.slice(text.length - numHeld);
    if (text.length > numHeld) pieces.push({ type: 'text', text: text.slice(0, text.length - numHeld) });
    return pieces;
  }

  /** What was held back, once no more text comes. */
  flush(): MarkedPiece[] {
    const text = this.#held;
    this.#held = '';
    return text === '' ? [] : [{ type: 'text', text }];
  }

  #first(text: string): { start: number; marker: string } | null {
    let first: { start: number; marker: string } | null = null;
    for (const marker of this.#markers) {
      const start = text.indexOf(marker);
      if (start >= 0 && (first === null || start < first.start)) first = { start, marker };
    }
    return first;
  }

  /** Length of the longest end of `text` with which a marker begins. */
  #beginning(text: string): number {
    let longest = 0;
    for (const marker of this.#markers) {
      for (let length = Math.min(marker.length - 1, text.length); length > longest; length--) {
        if (marker.startsWith(text.slice(text.length - length))) longest = length;
      }
    }
    return longest;
  }
}
