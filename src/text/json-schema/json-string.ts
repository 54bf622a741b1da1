/** Strings as JSON writes them: one spelling for each character. */
import { characterChoices } from './ebnf.ts';
import {
  type CodePoints,
  type Expression,
  ExpressionError,
  choice,
  intersection,
  normal,
  pointOf,
  sequence,
  text,
} from './expression.ts';

/** Characters that stand for themselves. */
export const PLAIN: CodePoints = [[0x20, 0x21], [0x23, 0x5b], [0x5d, 0xd7ff], [0xe000, 0x10ffff]]; // prettier-ignore

/** Characters that are written with a backslash, and what follows it. Other control characters are left out. */
const ESCAPED: ReadonlyMap<number, string> = new Map([
  [0x22, '"'],
  [0x5c, '\\'],
  [0x08, 'b'],
  [0x0c, 'f'],
  [0x0a, 'n'],
  [0x0d, 'r'],
  [0x09, 't'],
]);

/** The JSON strings whose values the expression matches. @throws ExpressionError for a set that cannot be written */
export function jsonStrings(value: Expression): Expression {
  return sequence(text('"'), written(value), text('"'));
}

function written(value: Expression): Expression {
  switch (value.type) {
    case 'set':
      return writtenSet(value.points);
    case 'sequence':
    case 'choice':
      return { type: value.type, parts: value.parts.map(written) };
    case 'repeat':
      return { ...value, part: written(value.part) };
  }
}

function writtenSet(points: CodePoints): Expression {
  const plain = intersection(points, PLAIN);
  if (characterChoices(plain) === null)
    throw new ExpressionError('expected sets of at most 256 characters beyond ASCII, or with all of them');
  const letters = [...ESCAPED]
    .filter(([point]) => points.some(([first, last]) => point >= first && point <= last))
    .map(([, letter]) => [pointOf(letter), pointOf(letter)] as const);
  const either = choice([
    plain.length === 0 ? null : { type: 'set', points: plain },
    letters.length === 0 ? null : sequence(text('\\'), { type: 'set', points: normal(letters) }),
  ]);
  if (either === null)
    throw new ExpressionError('expected an expression without sets of which no text has a character');
  return either;
}
