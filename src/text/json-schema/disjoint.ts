/** Whether no value can satisfy two schemas of a list, as far as types and constants tell. */
import type { SchemaNode } from './node.ts';

export function disjoint(nodes: readonly SchemaNode[]): boolean {
  return nodes.every((node, i) => nodes.slice(0, i).every((other) => excludes(node, other, 0)));
}

/** References are followed so far. */
const MAX_DEPTH = 8;

function excludes(a: SchemaNode, b: SchemaNode, depth: number): boolean {
  if (depth > MAX_DEPTH) return false;
  const [left, right] = [target(a), target(b)];
  if (left === null || right === null || left.type === 'any' || right.type === 'any') return false;
  if (left.type === 'union') return left.choices.every((choice) => excludes(choice, right, depth + 1));
  if (right.type === 'union') return right.choices.every((choice) => excludes(left, choice, depth + 1));
  if (left.type === 'literal' && right.type === 'literal')
    return left.texts.every((text) => !right.texts.includes(text));
  if (left.type === 'object' && right.type === 'object') {
    return left.properties.some(({ name, isRequired, value }) => {
      const other = right.properties.find((property) => property.name === name);
      return isRequired && other?.isRequired === true && excludes(value, other.value, depth + 1);
    });
  }
  const kinds = kindsOf(right);
  return [...kindsOf(left)].every((kind) => !kinds.has(kind));
}

function target(node: SchemaNode): SchemaNode | null {
  let at: SchemaNode | null = node;
  for (let depth = 0; at?.type === 'reference' && depth <= MAX_DEPTH; depth++) at = at.target.node;
  return at?.type === 'reference' ? null : at;
}

/** By the first character of a value. */
function kindsOf(node: SchemaNode): Set<string> {
  if (node.type !== 'literal') return new Set([node.type === 'integer' ? 'number' : node.type]);
  return new Set(
    node.texts.map((text) => {
      const value: unknown = JSON.parse(text);
      if (value === null) return 'null';
      return Array.isArray(value) ? 'array' : typeof value;
    }),
  );
}
