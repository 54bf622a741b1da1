/** Finds where a descending order would be cut, without sorting: quickselect by mass. */

export interface Cutoff {
  /** The smallest value that is still needed. */
  readonly value: number;
  /** Mass of everything larger than `value`: less than the target. */
  readonly massAbove: number;
}

/**
 * Where to cut `values` [count], taken from the largest down, so that their mass reaches `target`.
 * Everything counts if the mass of all falls short of it. Permutes `values`. Time is O(count) on average.
 */
export function findCutoff(values: Float64Array, target: number, massOf: (value: number) => number): Cutoff {
  let start = 0;
  let end = values.length;
  let massAbove = 0;
  for (;;) {
    const pivot = medianOfThree(values[start]!, values[(start + end) >> 1]!, values[end - 1]!);
    // Dutch flag: larger values before `larger`, smaller ones from `smaller` on, equals between.
    let larger = start;
    let smaller = end;
    let massLarger = 0;
    for (let i = start; i < smaller;) {
      const value = values[i]!;
      if (value > pivot) {
        massLarger += massOf(value);
        values[i++] = values[larger]!;
        values[larger++] = value;
      } else if (value < pivot) {
        values[i] = values[--smaller]!;
        values[smaller] = value;
      } else {
        i++;
      }
    }
    const massEqual = (smaller - larger) * massOf(pivot);
    if (massAbove + massLarger >= target) {
      end = larger;
    } else if (massAbove + massLarger + massEqual >= target || smaller === end) {
      return { value: pivot, massAbove: massAbove + massLarger };
    } else {
      massAbove += massLarger + massEqual;
      start = smaller;
    }
  }
}

function medianOfThree(a: number, b: number, c: number): number {
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
}
