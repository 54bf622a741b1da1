/** Numbers within bounds as expressions, digit by digit. */
import { choice, type Expression, range, repeat, sequence, text } from './expression.ts';

/** Digits before the point and behind it, so that no model can go on for ever: every integer of so many is exact in a double. */
const MAX_DIGITS = 15;
const LARGEST = 10 ** MAX_DIGITS - 1;
/** Smaller fractions would need an exponent. */
const SMALLEST = 1e-6;

const ZERO = text('0');
const MINUS = text('-');
const POINT = text('.');
const NON_ZERO = range('1', '9');
const DIGIT = range('0', '9');

export interface Bound {
  readonly value: number;
  readonly isExclusive: boolean;
}

/** Absent bounds are null. */
export interface Bounds {
  readonly low: Bound | null;
  readonly high: Bound | null;
}

/** Null for a bound that no number within so many digits can be told from. `side` is 1 for upper bounds, -1 for lower ones. */
export function writableBound({ value, isExclusive }: Bound, side: 1 | -1): Bound | null {
  if (value * side > LARGEST) return { value: LARGEST * side, isExclusive: false };
  const magnitude = Math.abs(value);
  if (magnitude > LARGEST || (magnitude !== 0 && magnitude < SMALLEST)) return null;
  return { value, isExclusive };
}

/** Null when no integer lies within the bounds. */
export function integers({ low, high }: Bounds): Expression | null {
  const min = low === null ? null : low.isExclusive ? Math.floor(low.value) + 1 : Math.ceil(low.value);
  const max = high === null ? null : high.isExclusive ? Math.ceil(high.value) - 1 : Math.floor(high.value);
  const isNegativeIn = min === null || min < 0;
  const isPositiveIn = max === null || max >= 0;
  return choice([
    isNegativeIn ? signed(naturals(Math.max(1, -(max ?? 0)), min === null ? null : -min)) : null,
    isPositiveIn ? naturals(Math.max(0, min ?? 0), max) : null,
  ]);
}

/** Null when no number lies within the bounds. */
export function numbers({ low, high }: Bounds): Expression | null {
  if (low === null && high === null) return anyNumber();
  const zero: Bound = { value: 0, isExclusive: false };
  const beyondZero: Bound = { value: 0, isExclusive: true };
  // Zero has no sign here, so that every number is on one side only.
  const isNegativeIn = low === null || low.value < 0;
  const isPositiveIn = high === null || high.value >= 0;
  return choice([
    isNegativeIn
      ? signed(magnitudes(high !== null && high.value < 0 ? negated(high) : beyondZero, low && negated(low)))
      : null,
    isPositiveIn ? magnitudes(low !== null && low.value >= 0 ? low : zero, high) : null,
  ]);
}

function anyNumber(): Expression {
  const whole = sequence(NON_ZERO, repeat(DIGIT, 0, MAX_DIGITS - 1));
  const sign: Expression = { type: 'set', points: [[0x2b, 0x2b], [0x2d, 0x2d]] }; // prettier-ignore
  const exponent = sequence(
    { type: 'set', points: [[0x45, 0x45], [0x65, 0x65]] }, // prettier-ignore
    repeat(sign, 0, 1),
    repeat(DIGIT, 1, 2),
  );
  return sequence(
    repeat(MINUS, 0, 1),
    { type: 'choice', parts: [ZERO, whole] },
    repeat(sequence(POINT, repeat(DIGIT, 1, MAX_DIGITS)), 0, 1),
    repeat(exponent, 0, 1),
  );
}

function signed(magnitude: Expression | null): Expression | null {
  return magnitude && sequence(MINUS, magnitude);
}

function negated({ value, isExclusive }: Bound): Bound {
  return { value: -value, isExclusive };
}

/** Whole numbers from `min` >= 0 on; `max` null = as far as digits go. Null where there are none. */
function naturals(min: number, max: number | null): Expression | null {
  if (min === 0) return choice([ZERO, naturals(1, max)]);
  const choices: Expression[] = [];
  const first = String(min);
  const lastLength = max === null ? MAX_DIGITS : String(max).length;
  for (let length = first.length; length <= lastLength; length++) {
    const least = `1${'0'.repeat(length - 1)}`;
    const low = length === first.length ? first : least;
    if (low === least && max === null) {
      choices.push(sequence(NON_ZERO, repeat(DIGIT, length - 1, MAX_DIGITS - 1)));
      break;
    }
    const high = max !== null && length === lastLength ? String(max) : '9'.repeat(length);
    if (low <= high) choices.push(digitsBetween(low, high));
  }
  return choice(choices);
}

/** Strings of as many digits as both have, from `low` to `high`. */
function digitsBetween(low: string, high: string): Expression {
  const rest = low.length - 1;
  if (rest < 0) return sequence();
  const [first, last] = [Number(low[0]), Number(high[0])];
  const isWhole = /^0*$/.test(low.slice(1)) && /^9*$/.test(high.slice(1));
  if (isWhole) return sequence(digits(first, last), repeat(DIGIT, rest, rest));
  if (first === last) return sequence(digits(first, first), digitsBetween(low.slice(1), high.slice(1)));
  const choices = [sequence(digits(first, first), digitsBetween(low.slice(1), '9'.repeat(rest)))];
  if (first + 1 < last) choices.push(sequence(digits(first + 1, last - 1), repeat(DIGIT, rest, rest)));
  choices.push(sequence(digits(last, last), digitsBetween('0'.repeat(rest), high.slice(1))));
  return { type: 'choice', parts: choices };
}

function digits(first: number, last: number): Expression {
  return range(String(first), String(last));
}

/** Numbers with or without a fraction, from `low` >= 0 on. */
function magnitudes(low: Bound, high: Bound | null): Expression | null {
  const [lowInteger, lowDigits] = decimal(low.value);
  const [highInteger, highDigits] = high === null ? [null, ''] : decimal(high.value);
  // With more digits in all, a double could be rounded across the bound.
  const room = Math.max(1, MAX_DIGITS - String(highInteger ?? lowInteger).length);
  const isAbove = low.isExclusive;
  const isBelow = high?.isExclusive ?? false;
  if (highInteger !== null && lowInteger > highInteger) return null;
  if (lowInteger === highInteger)
    return joined([[lowInteger, within(lowDigits, isAbove, highDigits, isBelow, room)]], null, room);
  const hasInner = highInteger === null || lowInteger + 1 < highInteger;
  const inner = hasInner ? naturals(lowInteger + 1, highInteger === null ? null : highInteger - 1) : null;
  const edges: Edge[] = [[lowInteger, atLeast(lowDigits, isAbove, room)]];
  if (highInteger !== null) edges.push([highInteger, atMost(highDigits, isBelow, room)]);
  return joined(edges, inner, room);
}

type Edge = readonly [integer: number, fraction: Fraction];

/** Numbers at the edges with the fractions they may have, and whole numbers that may have any. */
function joined(edges: readonly Edge[], inner: Expression | null, room: number): Expression | null {
  const choices = edges.map(([integer, { isEmptyIn, digits: more }]) => {
    const whole = text(String(integer));
    if (more === null) return isEmptyIn ? whole : null;
    return sequence(whole, repeat(sequence(POINT, more), isEmptyIn ? 0 : 1, 1));
  });
  const fraction = repeat(sequence(POINT, repeat(DIGIT, 1, room)), 0, 1);
  return choice([...choices, inner && sequence(inner, fraction)]);
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
  readonly digits: Expression | null;
}

const NOTHING: Fraction = { isEmptyIn: false, digits: null };

// In what follows, `room` is the number of digits that there may still be.

function atLeast(least: string, isAbove: boolean, room: number): Fraction {
  if (least === '') {
    if (!isAbove) return { isEmptyIn: true, digits: room > 0 ? repeat(DIGIT, 1, room) : null };
    if (room <= 0) return NOTHING;
    const more = repeat(DIGIT, 0, room - 1);
    return { isEmptyIn: false, digits: sequence(repeat(ZERO, 0, room - 1), NON_ZERO, more) };
  }
  const first = Number(least[0]);
  return choose([
    after(digits(first, first), atLeast(least.slice(1), isAbove, room - 1)),
    free(first + 1, 9, room),
  ]);
}

function atMost(most: string, isBelow: boolean, room: number): Fraction {
  if (most === '') {
    if (isBelow) return NOTHING;
    return { isEmptyIn: true, digits: room > 0 ? repeat(ZERO, 1, room) : null };
  }
  const first = Number(most[0]);
  const some = choose([
    free(0, first - 1, room),
    after(digits(first, first), atMost(most.slice(1), isBelow, room - 1)),
  ]);
  return { ...some, isEmptyIn: true };
}

function within(low: string, isAbove: boolean, high: string, isBelow: boolean, room: number): Fraction {
  if (low === '' && !isAbove) return atMost(high, isBelow, room);
  if (low === '' && high === '') return NOTHING;
  const [first, last] = [Number(low[0] ?? 0), Number(high[0] ?? 0)];
  if (first > last) return NOTHING;
  const [lowRest, highRest] = [low.slice(1), high.slice(1)];
  if (first === last)
    return choose([after(digits(first, first), within(lowRest, isAbove, highRest, isBelow, room - 1))]);
  return choose([
    after(digits(first, first), atLeast(lowRest, isAbove, room - 1)),
    free(first + 1, last - 1, room),
    after(digits(last, last), atMost(highRest, isBelow, room - 1)),
  ]);
}

/** Strings that begin with one of these digits. */
function free(first: number, last: number, room: number): Expression | null {
  return first > last ? null : sequence(digits(first, last), repeat(DIGIT, 0, Math.max(0, room - 1)));
}

/** A digit and what may follow it. */
function after(first: Expression, { isEmptyIn, digits: more }: Fraction): Expression | null {
  if (more === null) return isEmptyIn ? first : null;
  return sequence(first, repeat(more, isEmptyIn ? 0 : 1, 1));
}

function choose(choices: readonly (Expression | null)[]): Fraction {
  return { isEmptyIn: false, digits: choice(choices) };
}
