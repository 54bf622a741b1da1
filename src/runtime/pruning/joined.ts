/** Typed arrays, one behind the other. */

export function joined<T extends Float32Array | Int32Array>(first: T, ...others: readonly T[]): T {
  const length = others.reduce((sum, part) => sum + part.length, first.length);
  const all = (first instanceof Int32Array ? new Int32Array(length) : new Float32Array(length)) as T;
  let at = 0;
  for (const part of [first, ...others]) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
