/** Schemas that are refused: what is wrong, what cannot be enforced, and what would cost too much; each names its place. */
import { describe, expect, it } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import { schemaGrammar } from '../../../src/text/json-schema/schema-grammar.ts';

function refusal(schema: unknown, vocabSize = 32_000): AppError {
  try {
    schemaGrammar(schema, { param: 'schema', vocabSize });
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error(`accepted: ${JSON.stringify(schema).slice(0, 200)}`);
}

const inside = (schema: unknown) => ({ type: 'object', properties: { a: { type: 'array', items: schema } } });

describe('what cannot be enforced is named, never ignored', () => {
  it.each([
    [{ not: {} }, 'not'],
    [{ type: 'array', uniqueItems: true }, 'uniqueItems'],
    [{ type: 'array', contains: { type: 'string' } }, 'contains'],
    [{ type: 'integer', multipleOf: 3 }, 'multipleOf'],
    [{ if: {}, then: {} }, 'if'],
    [{ type: 'object', patternProperties: { a: {} } }, 'patternProperties'],
    [{ type: 'object', propertyNames: { pattern: 'a' } }, 'propertyNames'],
    [{ type: 'object', dependentRequired: {} }, 'dependentRequired'],
    [{ type: 'object', unevaluatedProperties: false }, 'unevaluatedProperties'],
    [{ type: 'string', nullable: true }, 'nullable'],
    [{ type: 'string', no_such_keyword: 1 }, 'no_such_keyword'],
    [{ type: 'string', format: 'no-such' }, 'format'],
    [{ type: 'string', pattern: 'a', maxLength: 3 }, 'maxLength'],
    [{ type: 'string', pattern: '(?=a)' }, 'pattern'],
    [{ type: 'string', pattern: '(a)\\1' }, 'pattern'],
    [{ type: 'string', pattern: '\\bx' }, 'pattern'],
    [{ type: 'string', pattern: 'a^b' }, 'pattern'],
    [{ type: 'string', pattern: '(' }, 'pattern'],
    [{ type: 'string', pattern: '[а-я\u4e00-\u9fa5]' }, 'pattern'],
    [{ type: 'integer', minimum: 1e300 }, 'minimum'],
    [{ allOf: [{ type: 'string' }, { maxLength: 3 }] }, 'allOf'],
    [{ oneOf: [{ type: 'string' }, { enum: ['a'] }] }, 'oneOf'],
    [{ anyOf: [{ type: 'string' }], minLength: 3 }, 'minLength'],
    [{ enum: ['a'], maxLength: 3 }, 'maxLength'],
    [{ type: 'object', properties: { b: {}, c: {} }, minProperties: 1 }, 'minProperties'],
  ])('%j', (schema, keyword) => {
    const error = refusal(inside(schema));
    expect(error).toMatchObject({ errorCode: 'unsupported_value', param: 'schema' });
    expect(error.message).toMatch(new RegExp(`^schema(\\.properties\\.a\\.items)?.*${keyword}`));
  });
});

describe('what is no schema, or no value satisfies', () => {
  it.each([
    ['x', 'expected a schema, got "x"'],
    [{ type: 'no-such' }, '.type: expected one or several of object'],
    [{ type: [] }, '.type: expected one or several'],
    [{ type: 'object', properties: 5 }, '.properties: expected an object of schemas, got 5'],
    [{ type: 'object', required: 'a' }, '.required: expected a list of names'],
    [
      { type: 'object', required: ['a'], additionalProperties: false },
      '.required: expected names of properties',
    ],
    [{ type: 'object', properties: { a: { type: 5 } } }, '.properties.a.type'],
    [{ enum: [] }, '.enum: expected a list of values'],
    [{ type: 'string', const: 5 }, '.const: expected values of the type beside it, got 5'],
    [{ anyOf: [] }, '.anyOf: expected a list of schemas'],
    [false, 'expected a schema that some value satisfies'],
    [{ type: 'integer', minimum: 3, exclusiveMaximum: 3 }, 'expected bounds between which there is a value'],
    [{ type: 'integer', minimum: 3.2, maximum: 3.8 }, 'expected bounds between which there is a value'],
    [{ type: 'number', minimum: '3' }, '.minimum: expected a number, got "3"'],
    [{ type: 'array', minItems: 3, maxItems: 2 }, '.minItems'],
    [{ type: 'array', minItems: -1 }, '.minItems: expected a whole number from 0 on, got -1'],
    [{ type: 'string', minLength: 3, maxLength: 2 }, '.maxLength'],
    [{ type: 'string', items: {} }, '.items: expected no "items" beside the type string'],
    [{ $ref: '#/$defs/none' }, '.$ref: expected a reference to a part of this schema'],
    [{ $ref: 'https://example.org/schema' }, '.$ref: expected a reference into this schema'],
    [{ $ref: '#' }, 'contains itself always'],
    [{ anyOf: [{ $ref: '#' }, { type: 'null' }] }, 'contains itself always'],
    [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, 'contains itself always'],
    [{ type: 'array', items: { $ref: '#' }, minItems: 1 }, 'contains itself always'],
  ])('%j', (schema, message) => {
    const error = refusal(schema);
    expect(error).toMatchObject({ errorCode: 'invalid_request', param: 'schema' });
    expect(error.message).toContain(message);
  });
});

describe('what would cost too much', () => {
  const nested = (depth: number): unknown => (depth === 0 ? {} : { type: 'array', items: nested(depth - 1) });
  it.each([
    ['bytes', { description: 'x'.repeat(70_000) }],
    ['depth', nested(40)],
    ['values', { enum: Array.from({ length: 2001 }, (_, i) => i) }],
    ['places in strings', { type: 'string', maxLength: 1000 }],
    ['many items', { type: 'array', items: {}, maxItems: 100_000 }],
    ['a long pattern', { type: 'string', pattern: 'a'.repeat(600) }],
    ['counts of counts', { type: 'string', pattern: '((a{0,99}b){99}c){99}' }],
    ['states without number', { type: 'string', pattern: '(a|b)*a(a|b){30}' }],
    ['deep groups', { type: 'string', pattern: `${'('.repeat(40)}a${')'.repeat(40)}` }],
  ])('%s', (_, schema) => {
    expect(refusal(schema).param).toBe('schema');
  });

  it('depends on the vocabulary', () => {
    const schema = { type: 'string', maxLength: 100 };
    expect(schemaGrammar(schema, { param: 'schema', vocabSize: 32_000 })).toContain('root');
    expect(refusal(schema, 152_000).message).toContain('at most 32 places in strings');
  });

  it('comes of no number of references to the same thing', () => {
    const $defs = Object.fromEntries(
      Array.from({ length: 60 }, (_, i) => [
        `d${i}`,
        i === 59 ? { type: 'null' } : { anyOf: [{ $ref: `#/$defs/d${i + 1}` }, { type: 'array', items: { $ref: `#/$defs/d${i + 1}` } }] }, // prettier-ignore
      ]),
    );
    const deep = refusal({ $defs, $ref: '#/$defs/d0' });
    expect(deep.message).toContain('within each other');
  });
});

describe('what says nothing about values passes', () => {
  it.each([
    {
      title: 'x',
      description: 'y',
      default: 1,
      examples: [],
      $comment: 'z',
      $schema: 's',
      deprecated: true,
      'x-own': {},
    },
    { type: 'array', uniqueItems: false },
    { type: 'object', patternProperties: {}, propertyNames: { type: 'string' } },
    { allOf: [{ type: 'string' }], description: 'one is no combination' },
    { properties: { a: {} } },
    { type: 'integer', minimum: -9007199254740991, maximum: 9007199254740991 },
    { oneOf: [{ type: 'string' }, { type: 'null' }] },
  ])('%j', (schema) => {
    expect(schemaGrammar(schema, { param: 'schema', vocabSize: 32_000 })).toContain('root ::=');
  });
});
