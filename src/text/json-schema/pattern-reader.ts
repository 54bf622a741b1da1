/** Reads the regular expressions of schemas. */
import {
  canBeEmpty,
  choice,
  type CodePoints,
  type Expression,
  ExpressionError,
  inverse,
  normal,
  sequence,
  single,
} from './expression.ts';

/** Most characters of a pattern, groups within groups, and repetitions by number. */
const MAX_LENGTH = 512;
const MAX_DEPTH = 16;
const MAX_COUNT = 1000;

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

/**
 * The texts that the pattern matches from their beginning to their end; so they also contain a match, which is all that
 * JSON Schema asks.
 * @throws ExpressionError saying what was expected, for what is no regular expression or is not supported
 */
export function readPattern(pattern: string): Expression {
  if (pattern.length > MAX_LENGTH)
    throw new ExpressionError(`expected at most ${MAX_LENGTH} characters, got ${pattern.length}`);
  try {
    new RegExp(pattern, 'u');
  } catch (error) {
    throw new ExpressionError('expected a regular expression', { cause: error });
  }
  return new PatternReader(pattern).read();
}

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
    return choice(parts) ?? sequence();
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
    return sequence(...parts);
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

function unsupported(what: string): ExpressionError {
  return new ExpressionError(`expected an expression without ${what}`);
}

function onlyPoint(points: CodePoints): number | null {
  const [only] = points;
  return points.length === 1 && only !== undefined && only[0] === only[1] ? only[0] : null;
}

// ---- repetitions of what may be empty

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
