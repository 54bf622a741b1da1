/** Finds where a descending order would be cut, without sorting it all: radix selection by mass. */

/** How a set of values is measured: its size, or the sum of its values. */
export type Measure = 'count' | 'sum';

export interface Cutoff {
  /** The smallest value that is still needed. */
  readonly value: number;
  /** Mass of everything larger than `value`: less than the target. */
  readonly massAbove: number;
}

/** A value as four digits of 16 bits; the most significant one holds sign, exponent and four bits of the mantissa. */
const NUM_DIGITS = 4;
/** Mass by digit; all zero between calls. */
const massOf = new Float64Array(2 ** 16);
/** As few values as sorting takes less time for than another pass over a table. */
const FEW = 256;

/**
 * Where to cut `values` [count >= 1], taken from the largest down, so that their mass reaches `target` > 0; at the
 * smallest value if the mass of all falls short of it. Overwrites `values`, which hold no NaN and no -0.
 * Digit by digit from the most significant one, it keeps the values that agree with the answer so far.
 */
export function findCutoff(values: Float64Array, target: number, measure: Measure): Cutoff {
  const digits = new Uint16Array(values.buffer, values.byteOffset, values.length * NUM_DIGITS);
  let count = values.length;
  let massAbove = 0;
  for (let place = NUM_DIGITS - 1; place >= 0 && count > FEW; place--) {
    let lowest = massOf.length;
    let highest = 0;
    for (let i = 0; i < count; i++) {
      const digit = digitAt(digits, i, place);
      massOf[digit] = massOf[digit]! + (measure === 'sum' ? values[i]! : 1);
      if (digit < lowest) lowest = digit;
      if (digit > highest) highest = digit;
    }
    let answer = highest;
    while (answer > lowest && massAbove + massOf[answer]! < target) massAbove += massOf[answer--]!;
    massOf.fill(0, lowest, highest + 1);
    let kept = 0;
    for (let i = 0; i < count; i++) if (digitAt(digits, i, place) === answer) values[kept++] = values[i]!;
    count = kept;
  }
  return cutSorted(values.subarray(0, count).sort(), massAbove, target, measure);
}

/**
 * Digit `place` of the i-th value (little-endian), mapped so that larger values have larger digits: all bits of
 * negative values are flipped, and the sign bit of the others.
 */
function digitAt(digits: Uint16Array, i: number, place: number): number {
  const digit = digits[i * NUM_DIGITS + place]!;
  if (digits[(i + 1) * NUM_DIGITS - 1]! >= 0x8000) return digit ^ 0xffff;
  return place === NUM_DIGITS - 1 ? digit ^ 0x8000 : digit;
}

/** The same for `ascending` values, below others of mass `massAbove`. */
function cutSorted(ascending: Float64Array, massAbove: number, target: number, measure: Measure): Cutoff {
  let value = ascending.at(-1)!;
  // Mass of the values larger than `value`, and of those down to the current one.
  let above = massAbove;
  let reached = massAbove;
  for (let i = ascending.length - 1; i >= 0 && reached < target; i--) {
    if (ascending[i]! < value) {
      value = ascending[i]!;
      above = reached;
    }
    reached += measure === 'sum' ? value : 1;
  }
  return { value, massAbove: above };
}
