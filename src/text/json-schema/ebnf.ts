/** Pieces of grammars in xgrammar's EBNF, and the rules of one grammar. */
import { type CodePoints, count } from './expression.ts';

/** Matches exactly this text. */
export function literal(text: string): string {
  let out = '';
  for (const character of text) out += escape(character, '"\\');
  return `"${out}"`;
}

/** Characters beyond ASCII that are written one by one. */
const MAX_SINGLES = 256;
const LAST_ASCII = 0x7f;
const BEYOND_ASCII = '[^\\x00-\\x7f]';
const NUM_BEYOND_ASCII = 0x110000 - 0x80 - 0x800;

/**
 * What matches one character of the set, none of them a control character or a surrogate.
 * The library reads ranges beyond ASCII wrongly: all of those characters, or a few by name, are what it can do.
 * @returns choices, none for an empty set; null = the set cannot be written
 */
export function characterChoices(points: CodePoints): string[] | null {
  const ascii = points.filter(([first]) => first <= LAST_ASCII);
  const inner = ascii.map(([first, end]) => {
    const last = Math.min(end, LAST_ASCII);
    const begin = escape(String.fromCodePoint(first), '[]\\^-');
    return first === last ? begin : `${begin}-${escape(String.fromCodePoint(last), '[]\\^-')}`;
  });
  const choices = inner.length === 0 ? [] : [`[${inner.join('')}]`];
  const beyond = points
    .map(([first, last]) => [Math.max(first, LAST_ASCII + 1), last] as const)
    .filter(([first, last]) => first <= last);
  const numBeyond = count(beyond);
  if (numBeyond === NUM_BEYOND_ASCII) return [...choices, BEYOND_ASCII];
  if (numBeyond > MAX_SINGLES) return null;
  const singles = beyond.flatMap(([first, last]) =>
    Array.from({ length: last - first + 1 }, (_, i) => literal(String.fromCodePoint(first + i))),
  );
  return [...choices, ...singles];
}

function escape(character: string, special: string): string {
  if (special.includes(character)) return `\\${character}`;
  const point = character.codePointAt(0) ?? 0;
  if (point >= 0x20 && point < 0x7f) return character;
  return point <= 0xffff
    ? `\\u${point.toString(16).padStart(4, '0')}`
    : `\\U${point.toString(16).padStart(8, '0')}`;
}

/** One of these; null when there is none. */
export function oneOf(choices: readonly string[]): string | null {
  if (choices.length <= 1) return choices[0] ?? null;
  return `(${choices.join(' | ')})`;
}

/** `max` null = any number. */
export function repeated(expression: string, min: number, max: number | null): string {
  if (max === 0) return '""';
  if (min === 1 && max === 1) return expression;
  if (max === null && min <= 1) return `(${expression})${min === 0 ? '*' : '+'}`;
  if (min === 0 && max === 1) return `(${expression})?`;
  return min === max ? `(${expression}){${min}}` : `(${expression}){${min},${max ?? ''}}`;
}

export class Rules {
  readonly #bodies = new Map<string, string>();
  readonly #names = new Map<string, string>();

  /** A name for a rule that is defined later, since it may refer to itself. */
  reserve(): string {
    const name = `r${this.#bodies.size}`;
    this.#bodies.set(name, '');
    return name;
  }

  define(name: string, body: string): void {
    this.#bodies.set(name, body);
  }

  /** The rule with this body: equal ones are one. */
  share(body: string): string {
    const known = this.#names.get(body);
    if (known !== undefined) return known;
    const name = this.reserve();
    this.define(name, body);
    this.#names.set(body, name);
    return name;
  }

  /** The whole grammar; it begins with `root`. */
  text(root: string): string {
    const lines = [...this.#bodies].map(([name, body]) => `${name} ::= ${body}`);
    return [`root ::= ${root}`, ...lines].join('\n');
  }
}
