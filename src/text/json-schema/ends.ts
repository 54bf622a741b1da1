/** Finds schemas that no finite value satisfies because they always contain themselves. */
import type { AppError } from '../../errors.ts';
import type { Definition, SchemaNode } from './node.ts';

/** @throws what `error` makes of the path of such a definition */
export function assertEnds(definitions: readonly Definition[], error: (path: string) => AppError): void {
  const ending = new Set<Definition>();
  for (let size = -1; size < ending.size;) {
    size = ending.size;
    for (const definition of definitions)
      if (definition.node !== null && ends(definition.node, ending)) ending.add(definition);
  }
  for (const definition of definitions) {
    if (!ending.has(definition) || isOwnAlias(definition)) throw error(definition.path);
  }
}

function ends(node: SchemaNode, ending: ReadonlySet<Definition>): boolean {
  switch (node.type) {
    case 'reference':
      return ending.has(node.target);
    case 'union':
      return node.choices.some((choice) => ends(choice, ending));
    case 'array':
      return Array.from({ length: node.min }, (_, i) => node.prefix[i] ?? node.items).every(
        (item) => item !== null && ends(item, ending),
      );
    case 'object':
      return node.properties.every(({ isRequired, value }) => !isRequired || ends(value, ending));
    default:
      return true;
  }
}

/** Whether it comes back to itself without a character in between: a matcher would go round for ever. */
function isOwnAlias(definition: Definition): boolean {
  const seen = new Set<Definition>();
  const pending = [definition.node];
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    if (node?.type === 'union') pending.push(...node.choices);
    if (node?.type !== 'reference') continue;
    if (node.target === definition) return true;
    if (!seen.has(node.target)) pending.push(node.target.node);
    seen.add(node.target);
  }
  return false;
}
