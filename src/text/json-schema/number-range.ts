/** Grammars of numbers within bounds, digit by digit. */
import { literal, oneOf } from './ebnf.ts';

/** Digits before the point and behind it: enough for any double, and no model can go on for ever. */
const MAX_DIGITS = 16;
const MAX_MAGNITUDE = 1e15;
const MIN_MAGNITUDE = 1e-6;

const ANY_INTEGER = `("0" | "-"? [1-9] [0-9]{0,${MAX_DIGITS - 1}})`;
const ANY_NUMBER = `"-"? ("0" | [1-9] [0-9]{0,${MAX_DIGITS - 1}}) ("." [0-9]{1,${MAX_DIGITS}})? ([eE] [+-]? [0-9]{1,2})?`;

export interface Bound {
  readonly value: number;
  readonly isExclusive: boolean;
}

/** Absent bounds are null. */
export interface Bounds {
  readonly low: Bound | null;
  readonly high: Bound | null;
}

/** Whether a bound can be written without exponent. */
export function isWritable(value: number): boolean {
  const magnitude = Math.abs(value);
  return magnitude === 0 || (magnitude >= MIN_MAGNITUDE && magnitude <= MAX_MAGNITUDE);
}

/** Null when no integer lies within the bounds. */
export function integerGrammar({ low, high }: Bounds): string | null {
  if (low === null && high === null) return ANY_INTEGER;
  const min = low === null ? null : low.isExclusive ? Math.floor(low.value) + 1 : Math.ceil(low.value);
  const max = high === null ? null : high.isExclusive ? Math.ceil(high.value) - 1 : Math.floor(high.value);
  const negative =
    min !== null && min >= 0 ? null : naturals(Math.max(1, -(max ?? 0)), min === null ? null : -min);
  const positive = max !== null && max < 0 ? null : naturals(Math.max(0, min ?? 0), max);
  return oneOf([...(negative === null ? [] : [`"-" ${negative}`]), ...(positive === null ? [] : [positive])]);
}

/** Null when no number lies within the bounds. */
export function numberGrammar({ low, high }: Bounds): string | null {
  if (low === null && high === null) return ANY_NUMBER;
  const zero: Bound = { value: 0, isExclusive: false };
  const beyondZero: Bound = { value: 0, isExclusive: true };
  // Zero has no sign here, so that every number is on one side only.
  const negative =
    low !== null && low.value >= 0
      ? null
      : magnitudes(high !== null && high.value < 0 ? negated(high) : beyondZero, low && negated(low));
  const positive =
    high !== null && high.value < 0 ? null : magnitudes(low !== null && low.value >= 0 ? low : zero, high);
  return oneOf([...(negative === null ? [] : [`"-" ${negative}`]), ...(positive === null ? [] : [positive])]);
}

function negated({ value, isExclusive }: Bound): Bound {
  return { value: -value, isExclusive };
}

/** Whole numbers from `min` >= 0 on; `max` null = as far as digits go. */
function naturals(min: number, max: number | null): string | null {
  const choices: string[] = [];
  const first = String(min);
  const lastLength = max === null ? MAX_DIGITS : String(max).length;
  for (let length = first.length; length <= lastLength; length++) {
    const low = length === first.length ? first : `1${'0'.repeat(length - 1)}`;
    const high = max !== null && length === lastLength ? String(max) : '9'.repeat(length);
    if (low > high) continue;
    if (low === `1${'0'.repeat(length - 1)}` && max === null) {
      choices.push(`[1-9] [0-9]{${length - 1},${MAX_DIGITS - 1}}`);
      break;
    }
    choices.push(digitsBetween(low, high));
  }
  return oneOf(choices);
}

/** Strings of as many digits as both have, from `low` to `high`. */
function digitsBetween(low: string, high: string): string {
  const rest = low.length - 1;
  if (rest < 0) return '""';
  const [first, last] = [Number(low[0]), Number(high[0])];
  const isWhole = /^0*$/.test(low.slice(1)) && /^9*$/.test(high.slice(1));
  if (isWhole) return sequence(digit(first, last), anyDigits(rest));
  if (first === last) return sequence(digit(first, first), digitsBetween(low.slice(1), high.slice(1)));
  const choices = [sequence(digit(first, first), digitsBetween(low.slice(1), '9'.repeat(rest)))];
  if (first + 1 < last) choices.push(sequence(digit(first + 1, last - 1), anyDigits(rest)));
  choices.push(sequence(digit(last, last), digitsBetween('0'.repeat(rest), high.slice(1))));
  return oneOf(choices) ?? '""';
}

function digit(first: number, last: number): string {
  return first === last ? literal(String(first)) : `[${first}-${last}]`;
}

function anyDigits(count: number): string {
  return count === 0 ? '""' : `[0-9]{${count}}`;
}

function sequence(...parts: readonly string[]): string {
  return parts.filter((part) => part !== '""').join(' ') || '""';
}

/** Numbers with or without a fraction, from `low` >= 0 on. */
function magnitudes(low: Bound, high: Bound | null): string | null {
  const [lowInteger, lowDigits] = decimal(low.value);
  const isAbove = low.isExclusive;
  if (high === null) {
    const above = naturals(lowInteger + 1, null);
    return joined([[lowInteger, atLeast(lowDigits, isAbove)]], above);
  }
  const [highInteger, highDigits] = decimal(high.value);
  const isBelow = high.isExclusive;
  if (lowInteger > highInteger) return null;
  if (lowInteger === highInteger)
    return joined([[lowInteger, within(lowDigits, isAbove, highDigits, isBelow)]], null);
  const between = lowInteger + 1 < highInteger ? naturals(lowInteger + 1, highInteger - 1) : null;
  const edges: Edge[] = [
    [lowInteger, atLeast(lowDigits, isAbove)],
    [highInteger, atMost(highDigits, isBelow)],
  ];
  return joined(edges, between);
}

type Edge = readonly [integer: number, fraction: Fraction];

/** Numbers at the edges with the fractions they may have, and whole numbers that may have any. */
function joined(edges: readonly Edge[], inner: string | null): string | null {
  const choices = edges.flatMap(([integer, { isEmptyIn, digits }]) => {
    const whole = literal(String(integer));
    if (digits === null) return isEmptyIn ? [whole] : [];
    return [`${whole} ("." ${digits})${isEmptyIn ? '?' : ''}`];
  });
  if (inner !== null) choices.push(`${inner} ("." [0-9]{1,${MAX_DIGITS}})?`);
  return oneOf(choices);
}

/** The whole part, and the digits behind the point without zeros at the end. */
function decimal(value: number): [integer: number, digits: string] {
  // JavaScript writes no exponent between the magnitudes that bounds may have.
  const [whole = '0', digits = ''] = String(value).split('.');
  return [Number(whole), digits];
}

/** A set of digit strings behind a point. */
interface Fraction {
  /** No digits at all, and no point. */
  readonly isEmptyIn: boolean;
  /** The others; null = there are none. */
  readonly digits: string | null;
}

const NOTHING: Fraction = { isEmptyIn: false, digits: null };
const ZEROS = `"0"{1,${MAX_DIGITS}}`;

function atLeast(digits: string, isAbove: boolean): Fraction {
  if (digits === '') {
    return isAbove
      ? { isEmptyIn: false, digits: `"0"{0,${MAX_DIGITS}} [1-9] [0-9]{0,${MAX_DIGITS}}` }
      : { isEmptyIn: true, digits: `[0-9]{1,${MAX_DIGITS}}` };
  }
  const first = Number(digits[0]);
  return choose([after(digit(first, first), atLeast(digits.slice(1), isAbove)), ...freeDigits(first + 1, 9)]);
}

function atMost(digits: string, isBelow: boolean): Fraction {
  if (digits === '') return isBelow ? NOTHING : { isEmptyIn: true, digits: ZEROS };
  const first = Number(digits[0]);
  const { digits: choices } = choose([
    ...freeDigits(0, first - 1),
    after(digit(first, first), atMost(digits.slice(1), isBelow)),
  ]);
  return { isEmptyIn: true, digits: choices };
}

function within(low: string, isAbove: boolean, high: string, isBelow: boolean): Fraction {
  if (low === '' && !isAbove) return atMost(high, isBelow);
  if (low === '' && high === '') return NOTHING;
  const [first, last] = [Number(low[0] ?? 0), Number(high[0] ?? 0)];
  if (first > last) return NOTHING;
  if (first === last)
    return choose([after(digit(first, first), within(low.slice(1), isAbove, high.slice(1), isBelow))]);
  return choose([
    after(digit(first, first), atLeast(low.slice(1), isAbove)),
    ...freeDigits(first + 1, last - 1),
    after(digit(last, last), atMost(high.slice(1), isBelow)),
  ]);
}

/** Strings that begin with one of these digits. */
function freeDigits(first: number, last: number): string[] {
  return first > last ? [] : [`${digit(first, last)} [0-9]{0,${MAX_DIGITS}}`];
}

/** A digit and what may follow it. */
function after(first: string, { isEmptyIn, digits }: Fraction): string | null {
  if (digits === null) return isEmptyIn ? first : null;
  return `${first} (${digits})${isEmptyIn ? '?' : ''}`;
}

function choose(choices: readonly (string | null)[]): Fraction {
  return { isEmptyIn: false, digits: oneOf(choices.filter((choice) => choice !== null)) };
}
