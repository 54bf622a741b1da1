/** Finds stop strings in text that arrives in chunks, holding back what may be the beginning of one. */
import { AppError } from '../errors.ts';

/**
 * The match that ends first wins; of several that end together, the one that starts first.
 * Knuth-Morris-Pratt for each string: constant amortised cost per character, even for "aaaa".
 */
export class StopStrings {
  readonly #stops: readonly Automaton[];
  #held = '';
  #matched: string | null = null;

  /** @throws AppError `invalid_request` for an empty string. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.map((stop, i) => {
      if (stop === '')
        throw new AppError(
          'invalid_request',
          'expected stop strings of at least one character, got an empty one',
          { param: `stop[${i}]` },
        );
      return new Automaton(stop);
    });
  }

  /** The stop string found, or null. Its text and what follows are never released. */
  get matched(): string | null {
    return this.#matched;
  }

  /** The text that is now certain to stand before any stop string. */
  push(chunk: string): string {
    if (this.#matched !== null) return '';
    const text = this.#held + chunk;
    for (let at = this.#held.length; at < text.length; at++) {
      const unit = text.charCodeAt(at);
      let longest = 0;
      for (const stop of this.#stops) {
        if (stop.step(unit) && stop.text.length > longest) {
          longest = stop.text.length;
          this.#matched = stop.text;
        }
      }
      if (longest > 0) {
        this.#held = '';
        return text.slice(0, at + 1 - longest);
      }
    }
    const numHeld = this.#stops.reduce((most, stop) => Math.max(most, stop.state), 0);
    this.#held = text.slice(text.length - numHeld);
    return text.slice(0, text.length - numHeld);
  }

  /** What was held back, once no more text comes. */
  flush(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }
}

class Automaton {
  readonly text: string;
  /** UTF-16 units of `text` that the input now ends with. */
  state = 0;
  /** Length of the longest proper border of the first i units. */
  readonly #border: Int32Array;

  constructor(text: string) {
    this.text = text;
    this.#border = new Int32Array(text.length + 1);
    for (let i = 1, length = 0; i < text.length; i++) {
      while (length > 0 && text.charCodeAt(i) !== text.charCodeAt(length)) length = this.#border[length] ?? 0;
      if (text.charCodeAt(i) === text.charCodeAt(length)) length++;
      this.#border[i + 1] = length;
    }
  }

  /** True when the input now ends with the whole text. */
  step(unit: number): boolean {
    while (this.state > 0 && this.text.charCodeAt(this.state) !== unit)
      this.state = this.#border[this.state] ?? 0;
    if (this.text.charCodeAt(this.state) === unit) this.state++;
    return this.state === this.text.length;
  }
}
