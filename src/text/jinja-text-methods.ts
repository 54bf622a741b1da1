/**
 * Gives templates Python's `strip`, `lstrip`, `rstrip` and `trim`: the Jinja library ignores their argument
 * (`content.lstrip('\n')` would eat spaces, too) and uses JavaScript's notion of white space.
 */
import type { Template } from '@huggingface/jinja';

/** Variables that a rewritten template calls. */
export const TEXT_METHODS = {
  __trim: (value: unknown, characters?: unknown) => stripEnds(asText(value), characters, true, true),
  __strip: (text: unknown, characters?: unknown) => stripEnds(text, characters, true, true),
  __lstrip: (text: unknown, characters?: unknown) => stripEnds(text, characters, true, false),
  __rstrip: (text: unknown, characters?: unknown) => stripEnds(text, characters, false, true),
};

const METHODS: Readonly<Record<string, string>> = {
  strip: '__strip',
  lstrip: '__lstrip',
  rstrip: '__rstrip',
};

/** What the syntax tree looks like to us; the library does not export its node types. */
interface SyntaxNode {
  type?: unknown;
  [key: string]: unknown;
}

/** Replaces, in place, `text.strip(...)` and `text | trim` by calls of our own functions. */
export function usePythonTextMethods(template: Template): void {
  visit(template.parsed);
}

function visit(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  if (value instanceof Map) {
    for (const pair of value as Map<unknown, unknown>) pair.forEach(visit);
    return;
  }
  Object.values(value).forEach(visit);
  rewrite(value as SyntaxNode);
}

function rewrite(node: SyntaxNode): void {
  if (node.type === 'CallExpression') {
    const callee = node.callee as SyntaxNode;
    const property = callee.property as SyntaxNode | undefined;
    const method = callee.computed === false ? METHODS[String(property?.value)] : undefined;
    if (callee.type !== 'MemberExpression' || method === undefined) return;
    node.args = [callee.object, ...(node.args as unknown[])];
    node.callee = { type: 'Identifier', value: method };
  } else if (node.type === 'FilterExpression') {
    const filter = node.filter as SyntaxNode;
    const name = filter.type === 'CallExpression' ? (filter.callee as SyntaxNode).value : filter.value;
    if (name !== 'trim') return;
    node.type = 'CallExpression';
    node.args = [node.operand, ...((filter.args as unknown[] | undefined) ?? [])];
    node.callee = { type: 'Identifier', value: '__trim' };
  }
}

/** Jinja's `trim` filter takes no value for an empty text. (The library tells functions of no difference to `none`.) */
function asText(value: unknown): unknown {
  return value ?? '';
}

/** Python's white space: Unicode's, and the four separators of ASCII. */
function isWhiteSpace(character: string): boolean {
  return /\p{White_Space}/u.test(character) || (character >= '\x1c' && character <= '\x1f');
}

function stripEnds(text: unknown, characters: unknown, left: boolean, right: boolean): string {
  if (typeof text !== 'string') throw new Error(`expected a text to strip, got ${typeof text}`);
  const strips = stripSet(characters);
  const units = Array.from(text);
  let start = 0;
  let end = units.length;
  while (left && start < end && strips(units[start] ?? '')) start++;
  while (right && end > start && strips(units[end - 1] ?? '')) end--;
  return units.slice(start, end).join('');
}

function stripSet(characters: unknown): (character: string) => boolean {
  if (characters === undefined || characters === null) return isWhiteSpace;
  if (typeof characters !== 'string')
    throw new Error(`expected characters to strip, got ${typeof characters}`);
  const set = new Set(characters);
  return (character) => set.has(character);
}
