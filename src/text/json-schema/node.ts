/** A schema as it was read: what a value may be, and nothing that a grammar could not enforce. */
import type { Expression } from './expression.ts';

export type SchemaNode =
  | { readonly type: 'any' | 'boolean' | 'null' }
  /** One of these values, written as JSON. */
  | { readonly type: 'literal'; readonly texts: readonly string[] }
  /** The values as JSON writes them; null = any string. */
  | { readonly type: 'string'; readonly expression: Expression | null }
  | { readonly type: 'integer' | 'number'; readonly expression: Expression }
  | ArrayNode
  | ObjectNode
  | { readonly type: 'union'; readonly choices: readonly SchemaNode[] }
  | { readonly type: 'reference'; readonly target: Definition };

export interface ArrayNode {
  readonly type: 'array';
  readonly prefix: readonly SchemaNode[];
  /** Those behind the prefix; null = there are none. */
  readonly items: SchemaNode | null;
  readonly min: number;
  /** Null = any number. */
  readonly max: number | null;
}

export interface ObjectNode {
  readonly type: 'object';
  /** In the order in which they are written. */
  readonly properties: readonly Property[];
  /** Those of other names; null = there are none. */
  readonly others: SchemaNode | null;
  /** Of the others. */
  readonly minOthers: number;
  readonly maxOthers: number | null;
}

export interface Property {
  readonly name: string;
  readonly isRequired: boolean;
  readonly value: SchemaNode;
}

/** What references point to; it may contain itself. */
export interface Definition {
  readonly path: string;
  /** Null while it is being read. */
  node: SchemaNode | null;
}
