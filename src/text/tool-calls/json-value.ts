/** Finds where a JSON value ends in text that arrives in chunks. */

const CLOSERS: Readonly<Record<string, string>> = { '{': '}', '[': ']' };
const SCALAR = /[-+.\w]/;

export function isJsonSpace(unit: string): boolean {
  return unit === ' ' || unit === '\n' || unit === '\t' || unit === '\r';
}

/**
 * Checks brackets and what may stand outside strings, not the whole grammar: a value that is almost JSON is for the
 * reader to judge, but text that cannot be part of one, such as a tag, ends it.
 */
export class JsonValueScanner {
  /** Closing brackets that are due, innermost last. */
  readonly #due: string[] = [];
  #isEscaped = false;
  #hasBegun = false;
  #isScalar = false;
  isInString = false;
  state: 'open' | 'done' | 'failed' = 'open';

  /** Reads on from `start`; returns the index behind what belongs to the value. */
  push(text: string, start: number): number {
    let at = start;
    while (at < text.length && this.state === 'open') at += this.#step(text.charAt(at)) ? 1 : 0;
    return at;
  }

  /** False if the unit is not part of the value. */
  #step(unit: string): boolean {
    if (this.isInString) {
      if (this.#isEscaped) this.#isEscaped = false;
      else if (unit === '\\') this.#isEscaped = true;
      else if (unit === '"') {
        this.isInString = false;
        this.#endIfWhole();
      }
      return true;
    }
    if (this.#isScalar) {
      if (SCALAR.test(unit)) return true;
      this.state = 'done';
      return false;
    }
    return this.#structure(unit);
  }

  #structure(unit: string): boolean {
    const isFirst = !this.#hasBegun;
    this.#hasBegun = true;
    const closer = CLOSERS[unit];
    if (closer !== undefined) {
      this.#due.push(closer);
    } else if (unit === '"') {
      this.isInString = true;
    } else if (isFirst && SCALAR.test(unit)) {
      this.#isScalar = true;
    } else if (!isFirst && unit === this.#due.at(-1)) {
      this.#due.pop();
      this.#endIfWhole();
    } else if (isFirst || !(SCALAR.test(unit) || unit === ',' || unit === ':' || isJsonSpace(unit))) {
      this.state = 'failed';
      return false;
    }
    return true;
  }

  #endIfWhole(): void {
    if (this.#due.length === 0) this.state = 'done';
  }
}
