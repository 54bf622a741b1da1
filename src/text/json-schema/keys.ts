/** The grammar of keys that are none of some names. */
import { characterChoices, literal, oneOf, type Rules } from './ebnf.ts';
import type { CodePoints } from './expression.ts';
import { PLAIN } from './json-string.ts';

const ESCAPED = '"\\\\" ["\\\\bfnrt]';

interface Branch {
  isName: boolean;
  readonly next: Map<string, Branch>;
}

/**
 * A rule for keys with their quotes; those that escape a character where a name does are left out.
 * @param onWide hears of each position at which nearly any character may come
 */
export function otherKeys(names: readonly string[], rules: Rules, onWide: () => void): string {
  const root: Branch = { isName: false, next: new Map() };
  for (const name of names) {
    let branch = root;
    for (const character of name) {
      const next = branch.next.get(character) ?? { isName: false, next: new Map<string, Branch>() };
      branch.next.set(character, next);
      branch = next;
    }
    branch.isName = true;
  }
  const free = rules.share(`(${[...plain(PLAIN), ESCAPED].join(' | ')})* "\\""`);
  return rules.share(`"\\"" ${write(root, free, { rules, onWide })}`);
}

interface Target {
  readonly rules: Rules;
  readonly onWide: () => void;
}

/** What may follow the characters that lead to a branch. */
function write({ isName, next }: Branch, free: string, target: Target): string {
  target.onWide();
  const points = [...next.keys()].map((character) => character.codePointAt(0) ?? 0).sort((a, b) => a - b);
  const choices = [...next].flatMap(([character, branch]) =>
    isPlain(character) ? [`${literal(character)} ${write(branch, free, target)}`] : [],
  );
  const others = plain(without(PLAIN, points));
  // An escape that begins like that of a name is not tried: all of them are left out.
  const hasEscape = points.some((point) => !isPlain(String.fromCodePoint(point)));
  choices.push(`(${others.join(' | ')}) ${free}`);
  if (!hasEscape) choices.push(`${ESCAPED} ${free}`);
  if (!isName) choices.push('"\\""');
  return target.rules.share(oneOf(choices) ?? '""');
}

/** Where all characters beyond ASCII but those of names cannot be written, they are all left out. */
function plain(points: CodePoints): string[] {
  const ascii = points
    .map(([first, last]) => [first, Math.min(last, 0x7f)] as const)
    .filter(([first, last]) => first <= last);
  return characterChoices(points) ?? characterChoices(ascii) ?? [];
}

function isPlain(character: string): boolean {
  return JSON.stringify(character) === `"${character}"`;
}

function without(points: CodePoints, holes: readonly number[]): CodePoints {
  return holes.reduce<CodePoints>(
    (ranges, hole) =>
      ranges.flatMap(([first, last]): [number, number][] =>
        hole < first || hole > last
          ? [[first, last]]
          : ([
              [first, hole - 1],
              [hole + 1, last],
            ].filter(([from = 0, to = 0]) => from <= to) as [number, number][]),
      ),
    points,
  );
}
