/** Grammars of schemas: every text that they allow is JSON of the schema, and what the schema allows they do too. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { arbitrarySchema } from './arbitrary.ts';
import { accepting, drawText, seeded } from './grammar.ts';

/** Zod's own reading of the schema. */
function check(schema: unknown, text: string): void {
  const parsed = z
    .fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0])
    .safeParse(JSON.parse(text));
  if (!parsed.success)
    throw new Error(`${text} does not satisfy ${JSON.stringify(schema)}: ${parsed.error.message}`);
}

describe('whatever a grammar lets a model write', () => {
  it('is a value of the schema, for schemas at random', { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(arbitrarySchema, fc.nat(), async (schema, seed) => {
        const text = await drawText(schema, seeded(seed));
        if (text !== null) check(schema, text);
      }),
      { numRuns: 150 },
    );
  });

  it('is UTF-8, and so are any values', async () => {
    for (let seed = 0; seed < 40; seed++) {
      const text = await drawText({ type: 'object', additionalProperties: true }, seeded(seed), 60);
      if (text !== null) expect(JSON.parse(text)).toBeTypeOf('object');
    }
  });

  it('ends where the schema is finite', async () => {
    const schema = {
      type: 'object',
      properties: {
        size: { type: 'number' },
        name: { type: 'string', maxLength: 5 },
        list: { type: 'array', items: { type: 'integer' }, maxItems: 4 },
      },
      required: ['size', 'name', 'list'],
      additionalProperties: false,
    };
    for (let seed = 0; seed < 30; seed++) {
      const text = await drawText(schema, seeded(seed), Infinity);
      expect(text?.length).toBeLessThan(250);
      check(schema, text ?? '');
    }
  });
});

async function verdicts(schema: unknown, texts: readonly string[]): Promise<string[]> {
  const accepts = await accepting(schema);
  const taken: string[] = [];
  for (const text of texts) if (await accepts(text)) taken.push(text);
  return taken;
}

describe('numbers', () => {
  const limits = fc.tuple(fc.integer({ min: -2000, max: 2000 }), fc.nat(2000), fc.boolean(), fc.boolean());
  const bounds = ([low, width, openLow, openHigh]: [number, number, boolean, boolean], scale: number) => ({
    [openLow ? 'exclusiveMinimum' : 'minimum']: low / scale,
    [openHigh ? 'exclusiveMaximum' : 'maximum']: (low + width + 2) / scale,
  });
  const isWithin = (limit: Record<string, number>, value: number) =>
    value >= (limit['minimum'] ?? -Infinity) &&
    value > (limit['exclusiveMinimum'] ?? -Infinity) &&
    value <= (limit['maximum'] ?? Infinity) &&
    value < (limit['exclusiveMaximum'] ?? Infinity);

  it.each([
    ['integer', 1, 1],
    ['number', 8, 16],
  ] as const)(
    'of type %s are all those within the bounds',
    { timeout: 60_000 },
    async (type, scale, grain) => {
      await fc.assert(
        fc.asyncProperty(limits, fc.array(fc.integer({ min: -3, max: 3 })), async (limit, offsets) => {
          const schema: Record<string, number> = bounds(limit, scale);
          const [low, width] = limit;
          const values = [
            0,
            ...offsets.flatMap((n) => [low / scale + n / grain, (low + width + 2) / scale + n / grain]),
          ];
          const texts = [...new Set(values.map(String))];
          const expected = texts.filter((text) => isWithin(schema, Number(text)));
          expect(await verdicts({ type, ...schema }, texts)).toEqual(expected);
        }),
        { numRuns: 60 },
      );
    },
  );

  it('beyond one bound go on to 15 digits', async () => {
    expect(await verdicts({ type: 'integer', minimum: 7 }, ['6', '7', '10', '07', '999999999999999', '1000000000000000'])).toEqual(['7', '10', '999999999999999']); // prettier-ignore
    expect(await verdicts({ type: 'integer', maximum: -7 }, ['-6', '-7', '-70', '0', '8'])).toEqual(['-7', '-70']); // prettier-ignore
  });

  it('without bounds may have a fraction and an exponent, of a size that a double holds', async () => {
    const texts = ['0', '-0.5', '1e9', '12.25E-7', '01', '1.', '.5', '1e999', '+1', 'NaN'];
    expect(await verdicts({ type: 'number' }, texts)).toEqual(['0', '-0.5', '1e9', '12.25E-7']);
    expect(await verdicts({ type: 'integer' }, ['3', '-3', '-0', '1.0', '1e2'])).toEqual(['3', '-3']);
  });
});

describe('enumerations', () => {
  it('are their values and nothing else, even where one begins like another', async () => {
    const values = ['ab', 'a', 'abc', 'b', 'ba', 'a"', 12, 1, 123, true, null, [1, 'a'], { a: 1 }];
    const texts = ['"ab"', '"a"', '"abc"', '"b"', '"ba"', '"a\\""', '12', '1', '123', 'true', 'null', '[1, "a"]', '{"a": 1}']; // prettier-ignore
    const others = ['"abb"', '"aa"', '"abcc"', '"c"', '""', '13', '122', '2', 'false', '[1,"a"]', '{}'];
    expect(await verdicts({ enum: values }, [...texts, ...others])).toEqual(texts);
    expect(await verdicts({ anyOf: values.map((value) => ({ const: value })) }, [...texts, ...others])).toEqual(texts); // prettier-ignore
  });

  it('may stand beside what else is allowed', async () => {
    const schema = { anyOf: [{ enum: ['ab', 'a', 5] }, { type: 'string', pattern: '^b+$' }, { type: 'integer', minimum: 50, maximum: 59 }] }; // prettier-ignore
    const texts = ['"ab"', '"a"', '"b"', '"bb"', '5', '55'];
    expect(await verdicts(schema, [...texts, '"abb"', '""', '"aa"', '6', '555', '49'])).toEqual(texts);
  });
});

describe('patterns', () => {
  const strings = ['', 'a', 'b', 'ab', 'ba', 'aab', 'a1', '12', '2024-05', 'é', 'aé', '漢', '"', '\\', 'a\nb', 'x.y', '-', ' ', 'A_9', '{', 'ab ab']; // prettier-ignore
  it.each([
    '^a*b$',
    'a|b|é',
    '^(a|b){2,3}$',
    '^[^a]+$',
    '^\\d{4}-\\d{2}$',
    '^["\\\\]$',
    '^.+$',
    '^[\\w.]+$',
    '^(?:ab?)+?$',
    '^(?<first>a)b?$',
    '^((a*)*b?)*$',
    '^(a*b*)*$',
    '^(|a)$',
    '^[a-b\\d]+$',
    '^\\x41\\u{5f}[9-]$',
    '^[{}-]$',
    '^\\S+$',
  ])('%s matches what JavaScript matches', async (pattern) => {
    const matches = new RegExp(`^(?:${pattern})$`, 'u');
    const expected = strings.filter((text) => matches.test(text)).map((text) => JSON.stringify(text));
    expect(expected.length).toBeGreaterThan(0);
    expect(await verdicts({ type: 'string', pattern }, strings.map((text) => JSON.stringify(text)))).toEqual(expected); // prettier-ignore
  });
});

describe('formats', () => {
  it.each([
    [
      'date',
      ['2024-02-29', '2000-02-29', '2026-12-31'],
      ['2023-02-29', '1900-02-29', '2024-13-01', '2024-04-31'],
    ],
    ['time', ['23:59:59Z', '00:00:00.5+02:00'], ['24:00:00Z', '12:00:00', '12:60:00Z']],
    ['date-time', ['2024-02-29T12:00:00Z'], ['2024-02-29', '2024-02-29 12:00:00Z']],
    ['duration', ['P1D', 'PT2H30M', 'P2W', 'P1Y2M'], ['P', 'PT', '1D']],
    ['email', ['a@b.co', 'a.b+c@d-e.org'], ['a@b', '@b.co', 'a..b@c.de', 'a@-b.co']],
    ['hostname', ['localhost', 'a-b.c'], ['-a', 'a..b', 'a_b']],
    ['ipv4', ['127.0.0.1', '255.255.255.255'], ['256.0.0.1', '1.2.3', '01.2.3.4']],
    ['ipv6', ['::1', '::', '1:2:3:4:5:6:7:8', 'fe80::1'], ['1:2', ':::', '12345::']],
    ['uuid', ['123e4567-e89b-42d3-a456-426614174000'], ['123e4567', '123e4567-e89b-92d3-a456-426614174000']],
    ['uri', ['https://a.b/c?d=e#f', 'http://localhost:80'], ['a.b', '//x', 'https://a b']],
  ])('%s', async (format, good, bad) => {
    const quoted = [...good, ...bad].map((text) => JSON.stringify(text));
    expect(await verdicts({ type: 'string', format }, quoted)).toEqual(quoted.slice(0, good.length));
  });
});

describe('objects and arrays', () => {
  it('take optional properties in their order, and a space behind what separates', async () => {
    const schema = { type: 'object', properties: { a: { type: 'null' }, b: { type: 'null' }, c: { type: 'null' } }, required: ['b'], additionalProperties: false }; // prettier-ignore
    const texts = ['{"b": null}', '{"a":null,"b":null}', '{ "a": null, "b": null, "c": null }', '{"b": null, "c": null}', '{}', '{"a": null}', '{"b": null, "a": null}', '{"b":  null}', '{"b": null, "b": null}']; // prettier-ignore
    expect(await verdicts(schema, texts)).toEqual(texts.slice(0, 4));
  });

  it('write other properties than those that are named only if asked to', async () => {
    const named = { type: 'object', properties: { ab: { type: 'null' } } };
    const texts = [
      '{}',
      '{"ab": null}',
      '{"ac": 1}',
      '{"a": 1}',
      '{"abc": 1}',
      '{"": 1}',
      '{"\\n": 1}',
      '{"é": 1}',
      '{"ab": null, "b": 2}',
    ];
    expect(await verdicts(named, texts)).toEqual(texts.slice(0, 2));
    const open = { ...named, additionalProperties: { type: 'integer' } };
    expect(await verdicts(open, [...texts, '{"ab": 1}', '{"b": 2, "ab": null}'])).toEqual(texts);
    expect(await verdicts({ type: 'object' }, ['{}', '{"x": [1, {"y": "z"}]}', '[]', '{"x"}'])).toEqual(['{}', '{"x": [1, {"y": "z"}]}']); // prettier-ignore
  });

  it('count items and properties', async () => {
    const texts = ['[]', '[1]', '[1, 2]', '[1,2,3]', '[1, 2, 3, 4]', '[1, 2, 3, 4, 5]'];
    expect(await verdicts({ type: 'array', items: { type: 'integer' }, minItems: 2, maxItems: 4 }, texts)).toEqual(texts.slice(2, 5)); // prettier-ignore
    const some = {
      type: 'object',
      additionalProperties: { type: 'null' },
      minProperties: 1,
      maxProperties: 2,
    };
    expect(await verdicts(some, ['{}', '{"a":null}', '{"a":null,"b":null}', '{"a":null,"b":null,"c":null}'])).toEqual(['{"a":null}', '{"a":null,"b":null}']); // prettier-ignore
    const tuple = { type: 'array', prefixItems: [{ type: 'null' }, { type: 'boolean' }], items: { type: 'integer' }, minItems: 1 }; // prettier-ignore
    expect(await verdicts(tuple, ['[]', '[null]', '[null, true]', '[null, true, 1, 2]', '[true]', '[null, 1]'])).toEqual(['[null]', '[null, true]', '[null, true, 1, 2]']); // prettier-ignore
  });

  it('contain themselves through references', async () => {
    const schema = { $ref: '#/$defs/node', $defs: { node: { type: 'object', properties: { kids: { type: 'array', items: { $ref: '#/$defs/node' } } }, required: ['kids'], additionalProperties: false } } }; // prettier-ignore
    expect(await verdicts(schema, ['{"kids": []}', '{"kids": [{"kids": [{"kids": []}]}]}', '{"kids": [1]}'])).toEqual(['{"kids": []}', '{"kids": [{"kids": [{"kids": []}]}]}']); // prettier-ignore
  });

  it('may be one of several', async () => {
    const schema = { oneOf: [{ type: 'object', properties: { kind: { const: 'a' } }, required: ['kind'] }, { type: 'object', properties: { kind: { const: 'b' }, n: { type: 'integer' } }, required: ['kind', 'n'] }] }; // prettier-ignore
    expect(await verdicts(schema, ['{"kind": "a"}', '{"kind": "b", "n": 1}', '{"kind": "b"}'])).toEqual(['{"kind": "a"}', '{"kind": "b", "n": 1}']); // prettier-ignore
  });
});
