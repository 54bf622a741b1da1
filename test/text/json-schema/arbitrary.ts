/** Schemas at random that can be enforced: small, nested, with all kinds of values. */
import fc from 'fast-check';

export type Schema = Record<string, unknown>;

const name = fc.constantFrom('a', 'ab', 'b', 'é', 'x y', 'q"', '\\');

const integer = fc
  .tuple(fc.integer({ min: -1000, max: 1000 }), fc.nat(500), fc.nat(3))
  .map(([low, width, kind]): Schema => {
    if (kind === 0) return { type: 'integer' };
    if (kind === 1) return { type: 'integer', minimum: low };
    return { type: 'integer', minimum: low, exclusiveMaximum: low + width + 1 };
  });

const number = fc
  .tuple(fc.integer({ min: -1000, max: 1000 }), fc.integer({ min: 1, max: 500 }), fc.nat(3))
  .map(([low, width, kind]): Schema => {
    if (kind === 0) return { type: 'number' };
    if (kind === 1) return { type: 'number', exclusiveMaximum: low / 8 };
    return { type: 'number', exclusiveMinimum: low / 8, maximum: (low + width) / 8 };
  });

const string = fc.oneof(
  fc.constant<Schema>({ type: 'string' }),
  fc
    .tuple(fc.nat(3), fc.nat(4))
    .map(([min, more]): Schema => ({ type: 'string', minLength: min, maxLength: min + more })),
  fc.constantFrom('date', 'time', 'uuid', 'ipv4').map((format): Schema => ({ type: 'string', format })),
  fc
    .constantFrom('^[a-c]{1,3}$', '^x(\\d|é)+$', '^"\\\\$', '^\\w\\s[^a]+$', '^(a|ab)(c|bcd)(d*)$')
    .map((pattern): Schema => ({ type: 'string', pattern })),
);

const literal = fc
  .uniqueArray(
    fc.oneof(
      fc.constantFrom('a', 'é"', '\n', 'ab', 'abb', 'ba', 'b'),
      fc.integer({ max: 20, min: -2 }),
      fc.boolean(),
    ),
    {
      minLength: 1,
      maxLength: 3,
    },
  )
  .map((values): Schema => ({ enum: values }));

export const arbitrarySchema: fc.Arbitrary<Schema> = fc.letrec<{
  schema: Schema;
  array: Schema;
  object: Schema;
}>((tie) => ({
  schema: fc.oneof(
    { maxDepth: 3, depthSize: 'small' },
    integer,
    number,
    string,
    literal,
    fc.constantFrom<Schema>({ type: 'boolean' }, { type: 'null' }, { type: ['string', 'null'] }),
    tie('array'),
    tie('object'),
    fc.array(tie('schema'), { minLength: 1, maxLength: 3 }).map((anyOf): Schema => ({ anyOf })),
  ),
  array: fc
    .tuple(tie('schema'), fc.nat(2), fc.nat(2), fc.array(tie('schema'), { maxLength: 2 }))
    .map(([items, min, more, prefixItems]): Schema =>
      prefixItems.length === 0
        ? { type: 'array', items, minItems: min, maxItems: min + more }
        : { type: 'array', prefixItems, items: false, minItems: Math.min(min, prefixItems.length) },
    ),
  object: fc
    .tuple(
      fc.uniqueArray(fc.tuple(name, tie('schema'), fc.boolean()), { selector: ([key]) => key, maxLength: 4 }),
      fc.option(tie('schema'), { nil: false }),
    )
    .map(([members, additionalProperties]): Schema => ({
      type: 'object',
      properties: Object.fromEntries(members.map(([key, value]) => [key, value])),
      required: members.filter(([, , isRequired]) => isRequired).map(([key]) => key),
      additionalProperties,
    })),
})).schema;
