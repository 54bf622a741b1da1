/** Turns what zod found wrong into one message of ours ("expected ..., got ...") and the path of the field. */
import type { z } from 'zod';

export interface Mistake {
  /** Such as `messages[0].role`; empty for the whole value. */
  readonly path: string;
  readonly message: string;
}

const MAX_VALUE_CHARACTERS = 60;

/** The first thing wrong. Parse with `reportInput: true`, so that the message can say what was found. */
export function firstMistake(error: z.ZodError): Mistake {
  const first = error.issues[0];
  if (first === undefined) return { path: '', message: 'invalid value' };
  const { issue, path } = deepest(first, []);
  if (issue.code === 'unrecognized_keys') {
    const key = shorten(issue.keys[0] ?? '');
    return { path: formatPath([...path, key]), message: `expected no key ${JSON.stringify(key)} here` };
  }
  const message = issue.code === 'invalid_key' ? (issue.issues[0]?.message ?? issue.message) : issue.message;
  const expected = message.replace(/^(Invalid [a-z]+|Too (small|big)): /, '').replace(/, received .*$/s, '');
  if (issue.code === 'custom') return { path: formatPath(path), message: expected };
  return { path: formatPath(path), message: `${expected}, got ${describe(inputOf(issue))}` };
}

type Issue = z.core.$ZodIssue;

/** Of a union in which nothing fits, the branch that came furthest says best what is wrong. */
function deepest(issue: Issue, parents: readonly PropertyKey[]): { issue: Issue; path: PropertyKey[] } {
  const path = [...parents, ...issue.path];
  if (issue.code !== 'invalid_union') return { issue, path };
  const inner = issue.errors
    .map((branch) => branch[0])
    .find((candidate) => (candidate?.path.length ?? 0) > 0);
  return inner === undefined ? { issue, path } : deepest(inner, path);
}

function inputOf(issue: Issue): unknown {
  if (issue.code !== 'invalid_union' || issue.discriminator === undefined) return issue.input;
  return (issue.input as Record<string, unknown> | undefined)?.[issue.discriminator];
}

/** A short rendering of a value for error messages. */
export function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  return JSON.stringify(typeof value === 'string' ? shorten(value) : value);
}

function shorten(text: string): string {
  return text.length <= MAX_VALUE_CHARACTERS ? text : `${text.slice(0, MAX_VALUE_CHARACTERS)}...`;
}

function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`;
    return text === '' ? String(part) : `${text}.${String(part)}`;
  }, '');
}
