/** Checks of options that only the model can decide, such as layers that it does not have. */
import { AppError } from '../errors.ts';

export function refuse(message: string, param: string): never {
  throw new AppError('invalid_request', `${param}: ${message}`, { param });
}

/** Such as `0-3, 5`; ascending whole numbers. */
function ranges(values: readonly number[]): string {
  const starts = values.filter((value, i) => values[i - 1] !== value - 1);
  const ends = values.filter((value, i) => values[i + 1] !== value + 1);
  return starts.map((start, i) => (start === ends[i] ? `${start}` : `${start}-${ends[i]}`)).join(', ');
}

/** @throws AppError `invalid_request` for `param`, listing what is valid: `valid`, ascending, called `what` */
export function checkIndex(value: number, valid: readonly number[], what: string, param: string): void {
  if (valid.includes(value)) return;
  refuse(`expected ${what} (${valid.length === 0 ? 'there is none' : ranges(valid)}), got ${value}`, param);
}

/** @throws AppError `invalid_request` for the first item of `param` that is not valid or comes twice */
export function checkLayers(
  layers: readonly number[],
  valid: readonly number[],
  what: string,
  param: string,
): void {
  layers.forEach((layer, i) => {
    checkIndex(layer, valid, what, `${param}[${i}]`);
    if (layers.indexOf(layer) < i) refuse(`expected each layer once, got ${layer} again`, `${param}[${i}]`);
  });
}

/** Indices of the items that fulfil the condition. */
export function indicesWhere<T>(items: readonly T[], condition: (item: T) => boolean): number[] {
  return items.flatMap((item, i) => (condition(item) ? [i] : []));
}
