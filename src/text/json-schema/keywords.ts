/** Which keywords of JSON Schema there are, and which of them can be enforced. */

export const TYPES = ['object', 'array', 'string', 'integer', 'number', 'boolean', 'null'] as const;
export type TypeName = (typeof TYPES)[number];

/** They say nothing about values. */
const ANNOTATIONS: ReadonlySet<string> = new Set([
  'title',
  'description',
  'default',
  'examples',
  'example',
  'deprecated',
  'readOnly',
  'writeOnly',
  'contentMediaType',
  'contentEncoding',
  '$comment',
  '$schema',
  '$id',
  // What references point to.
  '$defs',
  'definitions',
]);

function isAnnotation(keyword: string): boolean {
  return ANNOTATIONS.has(keyword) || keyword.startsWith('x-');
}

const NUMBER_KEYWORDS = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'];

/** What can be said of a type. */
export const TYPE_KEYWORDS: Readonly<Record<TypeName, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties', 'minProperties', 'maxProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['pattern', 'format', 'minLength', 'maxLength'],
  integer: NUMBER_KEYWORDS,
  number: NUMBER_KEYWORDS,
  boolean: [],
  null: [],
};

/** Keywords that decide alone; of others, only annotations may stand beside them. */
export const ALONE = ['$ref', 'allOf', 'anyOf', 'oneOf'] as const;

/** Values at which a keyword that cannot be enforced asks for nothing. */
const OFF: Readonly<Record<string, (value: unknown) => boolean>> = {
  uniqueItems: (value) => value === false,
  patternProperties: (value) =>
    typeof value === 'object' && value !== null && Object.keys(value).length === 0,
  propertyNames: (value) =>
    value === true || (typeof value === 'object' && JSON.stringify(value) === '{"type":"string"}'),
};

export function asksNothing(keyword: string, value: unknown): boolean {
  return isAnnotation(keyword) || OFF[keyword]?.(value) === true;
}
