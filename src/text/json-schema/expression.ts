/** Regular expressions as data: what patterns, numbers and enumerations come to. */

/** Ranges of code points, ascending and apart. */
export type CodePoints = readonly (readonly [first: number, last: number])[];

/** What is no expression, or none that can be enforced. The message says what was expected. */
export class ExpressionError extends Error {
  override name = 'ExpressionError';
}

export type Expression =
  | { readonly type: 'set'; readonly points: CodePoints }
  | { readonly type: 'sequence' | 'choice'; readonly parts: readonly Expression[] }
  /** `max` null = any number. */
  | { readonly type: 'repeat'; readonly part: Expression; readonly min: number; readonly max: number | null };

const LAST = 0x10ffff;

export const ANY_CHARACTER: Expression = { type: 'set', points: [[0, LAST]] };

export function text(characters: string): Expression {
  return sequence(
    ...Array.from(characters, (character): Expression => ({ type: 'set', points: single(character) })),
  );
}

export function range(first: string, last: string): Expression {
  return { type: 'set', points: [[pointOf(first), pointOf(last)]] };
}

export function sequence(...parts: readonly Expression[]): Expression {
  return { type: 'sequence', parts };
}

/** Null where there is nothing to choose from. */
export function choice(parts: readonly (Expression | null)[]): Expression | null {
  const present = parts.filter((part) => part !== null);
  return present.length <= 1 ? (present[0] ?? null) : { type: 'choice', parts: present };
}

export function repeat(part: Expression, min: number, max: number | null): Expression {
  return { type: 'repeat', part, min, max };
}

export function canBeEmpty(expression: Expression): boolean {
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

// ---- sets

export function pointOf(character: string): number {
  return character.codePointAt(0) ?? 0;
}

export function single(character: string): CodePoints {
  return [[pointOf(character), pointOf(character)]];
}

export function count(points: CodePoints): number {
  return points.reduce((sum, [first, last]) => sum + last - first + 1, 0);
}

/** Ascending and apart. */
export function normal(points: CodePoints): CodePoints {
  const merged: [number, number][] = [];
  for (const [first, last] of [...points].sort((a, b) => a[0] - b[0])) {
    const previous = merged.at(-1);
    if (previous !== undefined && first <= previous[1] + 1) previous[1] = Math.max(previous[1], last);
    else merged.push([first, last]);
  }
  return merged;
}

export function inverse(points: CodePoints): CodePoints {
  const out: [number, number][] = [];
  let from = 0;
  for (const [first, last] of points) {
    if (first > from) out.push([from, first - 1]);
    from = last + 1;
  }
  if (from <= LAST) out.push([from, LAST]);
  return out;
}

export function intersection(a: CodePoints, b: CodePoints): CodePoints {
  return a.flatMap(([first, last]) =>
    b
      .map(([from, to]): [number, number] => [Math.max(first, from), Math.min(last, to)])
      .filter(([from, to]) => from <= to),
  );
}
