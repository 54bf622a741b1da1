/**
 * Expressions as grammars. The library merges states of a rule that begins in several ways with the same character, and
 * then takes texts that it should not (https://github.com/mlc-ai/xgrammar/pull/632): no rule of ours does.
 */
import { automatonOf, type State } from './automaton.ts';
import { characterChoices, literal, oneOf, repeated, type Rules } from './ebnf.ts';
import { type CodePoints, count, type Expression, ExpressionError } from './expression.ts';

export interface RegularGrammar {
  /** An expression of the grammar, which may refer to rules. */
  readonly text: string;
  /** Positions at which the vocabulary is looked through, weighted by how much of it fits there. */
  readonly cost: number;
}

/** Letters make up most of a vocabulary: where few of them may come, few tokens have to be looked at. */
const MANY_CHARACTERS = 52;

/** @throws ExpressionError for an expression that is too large, or that the library cannot express */
export function regularGrammar(expression: Expression, rules: Rules): RegularGrammar {
  const automaton = automatonOf(expression);
  return automaton.isDeterministic ? write(expression) : writeStates(automaton.determinize(), rules);
}

function write(expression: Expression): RegularGrammar {
  switch (expression.type) {
    case 'set':
      return writeSet(expression.points);
    case 'sequence':
    case 'choice': {
      const parts = expression.parts.map(write);
      const cost = parts.reduce((sum, part) => sum + part.cost, 0);
      const texts = parts.map(({ text }) => text);
      if (expression.type === 'choice') return { text: oneOf(texts) ?? '""', cost };
      return { text: texts.length <= 1 ? (texts[0] ?? '""') : `(${texts.join(' ')})`, cost };
    }
    case 'repeat': {
      const { part, min, max } = expression;
      const { text, cost } = write(part);
      return { text: repeated(text, min, max), cost: cost * (max ?? min + 1) };
    }
  }
}

function writeSet(points: CodePoints): RegularGrammar {
  const choices = characterChoices(points);
  if (choices === null)
    throw new ExpressionError(
      'expected sets of at most 256 characters beyond ASCII, or with all of them: others cannot be enforced',
    );
  return { text: oneOf(choices) ?? '""', cost: Math.min(1, count(points) / MANY_CHARACTERS) };
}

/** A rule for each state. */
function writeStates(states: readonly State[], rules: Rules): RegularGrammar {
  const names = states.map(() => rules.reserve());
  let cost = 0;
  for (const [i, { isFinal, edges }] of states.entries()) {
    const choices = edges.map(({ points, target }) => {
      const set = writeSet(points);
      cost += set.cost;
      return `${set.text} ${names[target] ?? ''}`;
    });
    if (isFinal) choices.push('""');
    rules.define(names[i] ?? '', choices.join(' | '));
  }
  return { text: names[0] ?? '""', cost };
}

/** A text and the expression behind it. */
export interface Branch {
  readonly text: string;
  readonly then: string;
}

/** One of several texts with what follows each; what they begin with in common is written once. */
export function textsGrammar(branches: readonly Branch[], rules: Rules): string {
  const [first] = branches;
  if (first !== undefined && branches.length === 1) return sequenceOf(first.text, first.then);
  const ended = branches.filter(({ text }) => text === '').map(({ then }) => then);
  const groups = new Map<string, Branch[]>();
  for (const branch of branches) {
    const [start] = branch.text;
    if (start !== undefined) groups.set(start, [...(groups.get(start) ?? []), branch]);
  }
  const choices = [...groups.values()].map((group) => {
    const common = commonStart(group.map(({ text }) => text));
    const rest = group.map(({ text, then }) => ({ text: text.slice(common.length), then }));
    return sequenceOf(common, group.length === 1 ? (rest[0]?.then ?? '') : textsGrammar(rest, rules));
  });
  const all = [...choices, ...new Set(ended)];
  return all.length === 1 ? (all[0] ?? '""') : rules.share(all.join(' | '));
}

function sequenceOf(text: string, then: string): string {
  if (text === '') return then;
  return then === '""' ? literal(text) : `${literal(text)} ${then}`;
}

function commonStart(texts: readonly string[]): string {
  const [first = '', ...others] = texts;
  let length = first.length;
  for (const text of others) {
    let i = 0;
    while (i < length && text.charCodeAt(i) === first.charCodeAt(i)) i++;
    length = i;
  }
  // Not half of a character.
  return /[\ud800-\udbff]$/.test(first.slice(0, length))
    ? first.slice(0, length - 1)
    : first.slice(0, length);
}
