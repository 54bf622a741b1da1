/** Regular expressions of schemas as grammars of JSON strings. */
import { characterChoices, literal, oneOf, PLAIN_CHARACTERS, repeated, type CodePoints } from './ebnf.ts';

/** What an expression matches, before it is written as JSON. */
type Expression =
  | { readonly type: 'set'; readonly points: CodePoints }
  | { readonly type: 'sequence' | 'choice'; readonly parts: readonly Expression[] }
  | { readonly type: 'repeat'; readonly part: Expression; readonly min: number; readonly max: number | null };

/** Most characters of a pattern, groups within groups, and repetitions by number. */
const MAX_LENGTH = 512;
const MAX_DEPTH = 16;
const MAX_COUNT = 1000;

const LAST = 0x10ffff;
const SURROGATES = [0xd800, 0xdfff] as const;
const DIGITS: CodePoints = [[0x30, 0x39]];
const WORD: CodePoints = [[0x30, 0x39], [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]]; // prettier-ignore
/** As RE2 and ASCII modes have it: the library could not leave out single characters beyond ASCII. */
const SPACE: CodePoints = [[0x09, 0x0d], [0x20, 0x20]]; // prettier-ignore
const LINE_ENDS: CodePoints = [[0x0a, 0x0a], [0x0d, 0x0d]]; // prettier-ignore
const CLASSES: Readonly<Record<string, CodePoints>> = {
  d: DIGITS,
  w: WORD,
  s: SPACE,
  D: inverse(DIGITS),
  W: inverse(WORD),
  S: inverse(SPACE),
};
const CONTROLS: Readonly<Record<string, number>> = { n: 0x0a, r: 0x0d, t: 0x09, f: 0x0c, v: 0x0b, '0': 0 };

/** Characters that JSON writes with a backslash. */
const ESCAPES: ReadonlyMap<number, string> = new Map([
  [0x22, '\\"'],
  [0x5c, '\\\\'],
  [0x08, '\\b'],
  [0x0c, '\\f'],
  [0x0a, '\\n'],
  [0x0d, '\\r'],
  [0x09, '\\t'],
]);

export interface StringGrammar {
  /** Without the quotes. */
  readonly content: string;
  /** See `Rules`. */
  readonly cost: number;
}

/** Any string of `min` to `max` characters (null = any number). */
export function stringGrammar(min: number, max: number | null): StringGrammar {
  return write({ type: 'repeat', part: { type: 'set', points: [[0, LAST]] }, min, max });
}

/**
 * Strings that the expression matches from their beginning to their end; so they also contain a match, which is all
 * that JSON Schema asks.
 * @throws Error saying what was expected, for what is no regular expression or cannot be enforced
 */
export function patternGrammar(pattern: string): StringGrammar {
  if (pattern.length > MAX_LENGTH)
    throw new Error(`expected at most ${MAX_LENGTH} characters, got ${pattern.length}`);
  try {
    new RegExp(pattern, 'u');
  } catch (error) {
    throw new Error('expected a regular expression', { cause: error });
  }
  return write(new PatternReader(pattern).read());
}

// ---- reading

class PatternReader {
  readonly #pattern: string;
  #at = 0;
  #depth = 0;

  constructor(pattern: string) {
    this.#pattern = pattern;
  }

  /** The expression was tried as JavaScript's: only what is not supported has to be found out. */
  read(): Expression {
    return this.#choice();
  }

  get #next(): string | undefined {
    return this.#pattern[this.#at];
  }

  #take(text: string): boolean {
    if (!this.#pattern.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #choice(): Expression {
    const parts: Expression[] = [];
    do parts.push(this.#sequence());
    while (this.#take('|'));
    return parts.length === 1 ? (parts[0] ?? { type: 'sequence', parts }) : { type: 'choice', parts };
  }

  #sequence(): Expression {
    const parts: Expression[] = [];
    // Anchors say nothing at the ends of a whole match.
    while (this.#depth === 0 && this.#take('^'));
    while (this.#next !== undefined && this.#next !== '|' && this.#next !== ')') {
      if (this.#depth === 0 && /^\$+(\||$)/.test(this.#pattern.slice(this.#at))) {
        while (this.#take('$'));
        break;
      }
      parts.push(this.#quantified(this.#atom()));
    }
    return { type: 'sequence', parts };
  }

  #quantified(part: Expression): Expression {
    const counts = this.#counts();
    if (counts === null) return part;
    // A lazy quantifier matches the same texts.
    this.#take('?');
    return simpleRepeat(part, ...counts);
  }

  #counts(): [min: number, max: number | null] | null {
    if (this.#take('*')) return [0, null];
    if (this.#take('+')) return [1, null];
    if (this.#take('?')) return [0, 1];
    const match = /^\{(\d+)(,?)(\d*)\}/.exec(this.#pattern.slice(this.#at));
    if (match === null) return null;
    this.#at += match[0].length;
    const min = Number(match[1]);
    const max = match[2] === '' ? min : match[3] === '' ? null : Number(match[3]);
    if (Math.max(min, max ?? 0) > MAX_COUNT) throw unsupported(`more than ${MAX_COUNT} repetitions`);
    return [min, max];
  }

  #atom(): Expression {
    const character = String.fromCodePoint(this.#pattern.codePointAt(this.#at) ?? 0);
    this.#at += character.length;
    switch (character) {
      case '(':
        return this.#group();
      case '[':
        return { type: 'set', points: this.#class() };
      case '.':
        return { type: 'set', points: inverse(LINE_ENDS) };
      case '^':
      case '$':
        throw unsupported(`"${character}" inside`);
      case '\\':
        return { type: 'set', points: this.#escape() };
      default:
        return { type: 'set', points: single(character) };
    }
  }

  #group(): Expression {
    if (this.#take('?')) {
      const named = /^<[^=!][^>]*>/.exec(this.#pattern.slice(this.#at));
      if (named !== null) this.#at += named[0].length;
      else if (!this.#take(':')) throw unsupported(`a group that begins with "(?${this.#next ?? ''}"`);
    }
    if (++this.#depth > MAX_DEPTH) throw unsupported(`more than ${MAX_DEPTH} groups within each other`);
    const inner = this.#choice();
    this.#depth--;
    this.#take(')');
    return inner;
  }

  #escape(): CodePoints {
    const character = String.fromCodePoint(this.#pattern.codePointAt(this.#at) ?? 0);
    this.#at += character.length;
    const named = CLASSES[character];
    if (named !== undefined) return named;
    const control = CONTROLS[character];
    if (control !== undefined) return [[control, control]];
    const rest = this.#pattern.slice(this.#at);
    const hex =
      character === 'x'
        ? /^([0-9a-fA-F]{2})/.exec(rest)
        : character === 'u'
          ? (/^\{([0-9a-fA-F]+)\}/.exec(rest) ?? /^([0-9a-fA-F]{4})/.exec(rest))
          : null;
    if (hex !== null) {
      this.#at += hex[0].length;
      const point = Number.parseInt(hex[1] ?? '', 16);
      if (point >= SURROGATES[0] && point <= SURROGATES[1]) throw unsupported('half of a character');
      return [[point, point]];
    }
    if (/[\p{L}\p{N}]/u.test(character)) throw unsupported(`"\\${character}"`);
    return single(character);
  }

  #class(): CodePoints {
    const isInverse = this.#take('^');
    const points: [number, number][] = [];
    while (!this.#take(']')) {
      const first = this.#classMember();
      const begin = onlyPoint(first);
      const isRange = this.#next === '-' && this.#pattern[this.#at + 1] !== ']' && begin !== null;
      if (!isRange) {
        points.push(...first.map(([a, b]): [number, number] => [a, b]));
        continue;
      }
      this.#at++;
      points.push([begin, onlyPoint(this.#classMember()) ?? begin]);
    }
    const set = normal(points);
    return isInverse ? inverse(set) : set;
  }

  #classMember(): CodePoints {
    if (this.#take('\\')) return this.#escape();
    const character = String.fromCodePoint(this.#pattern.codePointAt(this.#at) ?? 0);
    this.#at += character.length;
    return single(character);
  }
}

function unsupported(what: string): Error {
  return new Error(`expected an expression without ${what}`);
}

function single(character: string): CodePoints {
  const point = character.codePointAt(0) ?? 0;
  return [[point, point]];
}

function onlyPoint(points: CodePoints): number | null {
  const [only] = points;
  return points.length === 1 && only !== undefined && only[0] === only[1] ? only[0] : null;
}

/** Ascending and apart. */
function normal(points: CodePoints): CodePoints {
  const merged: [number, number][] = [];
  for (const [first, last] of [...points].sort((a, b) => a[0] - b[0])) {
    const previous = merged.at(-1);
    if (previous !== undefined && first <= previous[1] + 1) previous[1] = Math.max(previous[1], last);
    else merged.push([first, last]);
  }
  return merged;
}

function inverse(points: CodePoints): CodePoints {
  const out: [number, number][] = [];
  let from = 0;
  for (const [first, last] of points) {
    if (first > from) out.push([from, first - 1]);
    from = last + 1;
  }
  if (from <= LAST) out.push([from, LAST]);
  return out;
}

function intersection(a: CodePoints, b: CodePoints): CodePoints {
  return a.flatMap(([first, last]) =>
    b
      .map(([from, to]): [number, number] => [Math.max(first, from), Math.min(last, to)])
      .filter(([from, to]) => from <= to),
  );
}

// ---- repetitions of what may be empty

function canBeEmpty(expression: Expression): boolean {
  switch (expression.type) {
    case 'set':
      return false;
    case 'sequence':
      return expression.parts.every(canBeEmpty);
    case 'choice':
      return expression.parts.some(canBeEmpty);
    case 'repeat':
      return expression.min === 0 || canBeEmpty(expression.part);
  }
}

/** The texts of nothing, over and over, are endless in number: a matcher would look for them all. */
function simpleRepeat(part: Expression, min: number, max: number | null): Expression {
  if (!canBeEmpty(part)) return { type: 'repeat', part, min, max };
  if (max === 1) return part;
  if (max !== null) throw unsupported('a count of repetitions of what may be empty');
  return { type: 'repeat', part: withoutEmpty(part), min: 0, max: null };
}

/**
 * An expression whose repetitions are those of the given one, and that is never empty: the star normal form of
 * Brüggemann-Klein (https://doi.org/10.1016/0304-3975(93)90287-4).
 */
function withoutEmpty(expression: Expression): Expression {
  if (!canBeEmpty(expression)) return expression;
  switch (expression.type) {
    case 'set':
      return expression;
    case 'sequence':
    case 'choice':
      return { type: 'choice', parts: expression.parts.map(withoutEmpty).filter((part) => !isEmpty(part)) };
    case 'repeat':
      return withoutEmpty(expression.part);
  }
}

function isEmpty(expression: Expression): boolean {
  return expression.type !== 'set' && expression.type !== 'repeat' && expression.parts.length === 0;
}

// ---- writing

function write(expression: Expression): StringGrammar {
  switch (expression.type) {
    case 'set':
      return writeSet(expression.points);
    case 'sequence':
    case 'choice': {
      const parts = expression.parts.map(write);
      const cost = parts.reduce((sum, part) => sum + part.cost, 0);
      const contents = parts.map(({ content }) => content);
      if (expression.type === 'choice') return { content: oneOf(contents) ?? '""', cost };
      return { content: contents.length === 0 ? '""' : `(${contents.join(' ')})`, cost };
    }
    case 'repeat': {
      const { part, min, max } = expression;
      const { content, cost } = write(part);
      return { content: repeated(content, min, max), cost: cost * (max ?? min + 1) };
    }
  }
}

/** Letters make up most of a vocabulary: where few of them may come, few tokens have to be looked at. */
const MANY_CHARACTERS = 52;

function writeSet(points: CodePoints): StringGrammar {
  const raw = intersection(points, PLAIN_CHARACTERS);
  const escaped = [...ESCAPES]
    .filter(([point]) => points.some(([first, last]) => point >= first && point <= last))
    .map(([, text]) => literal(text));
  const plain = characterChoices(raw);
  if (plain === null)
    throw unsupported('ranges beyond ASCII of more than 256 characters, unless it is all of those');
  const content = oneOf([...plain, ...escaped]);
  if (content === null) throw unsupported('sets of which no JSON string can have a character');
  const count = raw.reduce((sum, [first, last]) => sum + last - first + 1, 0);
  return { content, cost: Math.min(1, count / MANY_CHARACTERS) };
}
