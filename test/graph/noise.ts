/** Numbers that look random and are the same in every run. */

/** Float32 noise around zero, the same for the same seed. */
export function noise(seed: number, length: number): Float32Array {
  let state = seed * 2654435761 + 1;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}
