/** Reads a JSON schema from a client: what a grammar enforces becomes nodes, anything else is an error. */
import { AppError } from '../../errors.ts';
import { describe } from '../../validation.ts';
import { disjoint } from './disjoint.ts';
import { assertEnds } from './ends.ts';
import { ANY_CHARACTER, ExpressionError, repeat } from './expression.ts';
import { FORMATS } from './formats.ts';
import { jsonStrings } from './json-string.ts';
import { ALONE, asksNothing, TYPE_KEYWORDS, type TypeName, TYPES } from './keywords.ts';
import type { Definition, Property, SchemaNode } from './node.ts';
import { type Bound, integers, numbers, writableBound } from './number-range.ts';
import { readPattern } from './pattern-reader.ts';

/** Of one schema: bytes of its JSON, schemas within schemas, schemas and enumerated values in all. */
const LIMITS = { bytes: 65_536, depth: 32, values: 2000 };
/** Most that `minItems`, `maxLength` and the like may be. */
const MAX_COUNT = 1000;

type SchemaObject = Readonly<Record<string, unknown>>;

/**
 * @param param names the schema in errors
 * @throws AppError `invalid_request` for what is no schema, is too large, or can never be satisfied;
 *   `unsupported_value` for what cannot be enforced
 */
export function readSchema(schema: unknown, param: string): SchemaNode {
  return new SchemaReader(schema, param).read();
}

class SchemaReader {
  readonly #root: unknown;
  readonly #param: string;
  readonly #definitions = new Map<string, Definition>();
  #numValues = 0;

  constructor(root: unknown, param: string) {
    this.#root = root;
    this.#param = param;
  }

  read(): SchemaNode {
    const root = this.#definition('#', this.#param);
    const bytes = Buffer.byteLength(JSON.stringify(this.#root));
    if (bytes > LIMITS.bytes) throw this.#invalid(this.#param, `at most ${LIMITS.bytes} bytes, got ${bytes}`);
    const node = this.#resolve(root, this.#root, 0);
    assertEnds([...this.#definitions.values()], (path) =>
      this.#invalid(path, 'a schema that some finite value satisfies, got one that contains itself always'),
    );
    return node;
  }

  #definition(pointer: string, path: string): Definition {
    const definition = { path, node: null };
    this.#definitions.set(pointer, definition);
    return definition;
  }

  #resolve(definition: Definition, schema: unknown, depth: number): SchemaNode {
    const node = this.#schema(schema, definition.path, depth);
    definition.node = node;
    return node;
  }

  #schema(schema: unknown, path: string, depth: number): SchemaNode {
    this.#count(1, path);
    if (depth > LIMITS.depth) throw this.#invalid(path, `at most ${LIMITS.depth} schemas within each other`);
    if (schema === true) return { type: 'any' };
    if (schema === false) throw this.#invalid(path, 'a schema that some value satisfies, got false');
    if (!isObject(schema)) throw this.#invalid(path, `a schema, got ${describe(schema)}`);
    const keywords = Object.keys(schema).filter((name) => !asksNothing(name, schema[name]));
    const alone = ALONE.find((name) => keywords.includes(name));
    if (alone !== undefined) return this.#alone(alone, schema, keywords, path, depth);
    if (keywords.includes('const') || keywords.includes('enum'))
      return this.#literals(schema, keywords, path);
    return this.#typed(schema, keywords, path, depth);
  }

  #count(more: number, path: string): void {
    this.#numValues += more;
    if (this.#numValues > LIMITS.values)
      throw this.#invalid(path, `at most ${LIMITS.values} schemas and enumerated values in all`);
  }

  // ---- combinations

  #alone(
    keyword: (typeof ALONE)[number],
    schema: SchemaObject,
    keywords: readonly string[],
    path: string,
    depth: number,
  ): SchemaNode {
    const other = keywords.find((name) => name !== keyword && !this.#isImplied(keyword, name));
    if (other !== undefined) throw this.#unsupported(join(path, other), `"${other}" beside "${keyword}"`);
    if (keyword === '$ref') return this.#reference(schema.$ref, join(path, '$ref'), depth);
    const list = schema[keyword];
    const at = join(path, keyword);
    if (!Array.isArray(list) || list.length === 0)
      throw this.#invalid(at, `a list of schemas, got ${describe(list)}`);
    const choices = list.map((item, i) => this.#schema(item, `${at}[${i}]`, depth + 1));
    const [first] = choices;
    if (first !== undefined && choices.length === 1) return first;
    if (keyword === 'allOf') throw this.#unsupported(at, '"allOf" of several schemas');
    if (keyword === 'oneOf' && !disjoint(choices)) {
      throw this.#unsupported(
        at,
        '"oneOf" unless its schemas exclude each other by type or by constants of a required property',
      );
    }
    return { type: 'union', choices };
  }

  /** OpenAPI's discriminator repeats what the choices say. */
  #isImplied(keyword: string, name: string): boolean {
    return name === 'discriminator' && (keyword === 'oneOf' || keyword === 'anyOf');
  }

  #reference(value: unknown, path: string, depth: number): SchemaNode {
    if (typeof value !== 'string' || !/^#(\/.*)?$/.test(value))
      throw this.#invalid(
        path,
        `a reference into this schema, such as "#/$defs/item", got ${describe(value)}`,
      );
    const known = this.#definitions.get(value);
    if (known !== undefined) return { type: 'reference', target: known };
    const target = this.#find(value, path);
    const definition = this.#definition(value, `${this.#param}${dotted(value)}`);
    this.#resolve(definition, target, depth + 1);
    return { type: 'reference', target: definition };
  }

  #find(pointer: string, path: string): unknown {
    let value = this.#root;
    for (const part of pointer.split('/').slice(1)) {
      const key = decodePart(part).replaceAll('~1', '/').replaceAll('~0', '~');
      const next = typeof value === 'object' && value !== null && Object.hasOwn(value, key);
      if (!next) throw this.#invalid(path, `a reference to a part of this schema, got ${describe(pointer)}`);
      value = (value as SchemaObject)[key];
    }
    return value;
  }

  // ---- values

  #literals(schema: SchemaObject, keywords: readonly string[], path: string): SchemaNode {
    const keyword = keywords.includes('const') ? 'const' : 'enum';
    const other = keywords.find((name) => name !== keyword && name !== 'type');
    if (other !== undefined) throw this.#unsupported(join(path, other), `"${other}" beside "${keyword}"`);
    const values: unknown = keyword === 'const' ? [schema.const] : schema.enum;
    const at = join(path, keyword);
    if (!Array.isArray(values) || values.length === 0)
      throw this.#invalid(at, `a list of values, got ${describe(values)}`);
    this.#count(values.length, at);
    const types = schema.type === undefined ? null : this.#types(schema.type, join(path, 'type'));
    const misfit = values.findIndex(
      (value) => types !== null && !types.some((type) => isOfType(value, type)),
    );
    if (misfit >= 0) throw this.#invalid(at, `values of the type beside it, got ${describe(values[misfit])}`);
    return { type: 'literal', texts: [...new Set(values.map((value) => writeJson(value)))] };
  }

  #types(value: unknown, path: string): TypeName[] {
    const names: unknown[] = Array.isArray(value) ? value : [value];
    const isKnown = (name: unknown): name is TypeName => (TYPES as readonly unknown[]).includes(name);
    const unknown = names.find((name) => !isKnown(name));
    if (unknown !== undefined || names.length === 0)
      throw this.#invalid(path, `one or several of ${TYPES.join(', ')}, got ${describe(unknown)}`);
    return [...new Set(names.filter(isKnown))];
  }

  #typed(schema: SchemaObject, keywords: readonly string[], path: string, depth: number): SchemaNode {
    const used = keywords.filter((name) => name !== 'type');
    const known = TYPES.flatMap((type) => TYPE_KEYWORDS[type]);
    const foreign = used.find((name) => !known.includes(name));
    if (foreign !== undefined) throw this.#unsupported(join(path, foreign), `the keyword "${foreign}"`);
    if (keywords.length === 0) return { type: 'any' };
    const types =
      schema.type === undefined ? impliedTypes(used) : this.#types(schema.type, join(path, 'type'));
    const idle = used.find((name) => !types.some((type) => TYPE_KEYWORDS[type].includes(name)));
    if (idle !== undefined)
      throw this.#invalid(join(path, idle), `no "${idle}" beside the type ${types.join(', ')}`);
    // An integer is a number.
    const choices = types
      .filter((type) => type !== 'integer' || !types.includes('number'))
      .map((type) => this.#ofType(type, schema, path, depth));
    const [first] = choices;
    return first !== undefined && choices.length === 1 ? first : { type: 'union', choices };
  }

  #ofType(type: TypeName, schema: SchemaObject, path: string, depth: number): SchemaNode {
    switch (type) {
      case 'object':
        return this.#object(schema, path, depth);
      case 'array':
        return this.#array(schema, path, depth);
      case 'string':
        return this.#string(schema, path);
      case 'integer':
      case 'number':
        return this.#number(type, schema, path);
      default:
        return { type };
    }
  }

  #string(schema: SchemaObject, path: string): SchemaNode {
    const asked = ['pattern', 'format', 'minLength', 'maxLength'].filter(
      (name) => schema[name] !== undefined,
    );
    const min = this.#size(schema, 'minLength', path) ?? 0;
    const max = this.#size(schema, 'maxLength', path);
    if (max !== null && max < min)
      throw this.#invalid(join(path, 'maxLength'), `at least ${min}, got ${max}`);
    if (schema.pattern === undefined && schema.format === undefined) {
      const isAny = min === 0 && max === null;
      return { type: 'string', expression: isAny ? null : jsonStrings(repeat(ANY_CHARACTER, min, max)) };
    }
    const [first = '', second] = asked;
    if (second !== undefined) throw this.#unsupported(join(path, second), `"${second}" beside "${first}"`);
    const at = join(path, first);
    const value = schema[first];
    const pattern = first === 'format' ? ownValue(FORMATS, value) : value;
    if (first === 'format' && pattern === undefined) {
      const names = Object.keys(FORMATS).join(', ');
      throw this.#unsupported(at, `this format; expected one of ${names}, got ${describe(value)}`);
    }
    if (typeof pattern !== 'string')
      throw this.#invalid(at, `a regular expression, got ${describe(pattern)}`);
    try {
      return { type: 'string', expression: jsonStrings(readPattern(pattern)) };
    } catch (error) {
      if (!(error instanceof ExpressionError)) throw error;
      throw new AppError('unsupported_value', `${at}: ${error.message}`, {
        param: this.#param,
        cause: error,
      });
    }
  }

  #number(type: 'integer' | 'number', schema: SchemaObject, path: string): SchemaNode {
    const bound = (inclusive: string, exclusive: string, side: 1 | -1): Bound | null => {
      const given = [this.#bound(schema, inclusive, side, path), this.#bound(schema, exclusive, side, path)];
      // The tighter one holds; of equal ones that which excludes its value.
      return given.reduce((a, b) => (a === null || (b !== null && b.value * side <= a.value * side) ? b : a));
    };
    const bounds = {
      low: bound('minimum', 'exclusiveMinimum', -1),
      high: bound('maximum', 'exclusiveMaximum', 1),
    };
    const expression = type === 'integer' ? integers(bounds) : numbers(bounds);
    if (expression === null) throw this.#invalid(path, 'bounds between which there is a value');
    return { type, expression };
  }

  #bound(schema: SchemaObject, keyword: string, side: 1 | -1, path: string): Bound | null {
    const value = schema[keyword];
    if (value === undefined) return null;
    const at = join(path, keyword);
    if (typeof value !== 'number') throw this.#invalid(at, `a number, got ${describe(value)}`);
    const bound = writableBound({ value, isExclusive: keyword.startsWith('exclusive') }, side);
    if (bound === null) throw this.#unsupported(at, `a bound of this magnitude, got ${value}`);
    return bound;
  }

  #size(schema: SchemaObject, keyword: string, path: string): number | null {
    const value = schema[keyword];
    if (value === undefined) return null;
    const at = join(path, keyword);
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0)
      throw this.#invalid(at, `a whole number from 0 on, got ${describe(value)}`);
    if (value > MAX_COUNT) throw this.#unsupported(at, `more than ${MAX_COUNT}, got ${value}`);
    return value;
  }

  #array(schema: SchemaObject, path: string, depth: number): SchemaNode {
    const min = this.#size(schema, 'minItems', path) ?? 0;
    const max = this.#size(schema, 'maxItems', path);
    const given: unknown = schema.prefixItems ?? [];
    if (!Array.isArray(given))
      throw this.#invalid(join(path, 'prefixItems'), `a list of schemas, got ${describe(given)}`);
    const prefix = given.map((item, i) =>
      this.#schema(item, `${join(path, 'prefixItems')}[${i}]`, depth + 1),
    );
    const hasItems = schema.items !== false;
    const items = hasItems ? this.#schema(schema.items ?? true, join(path, 'items'), depth + 1) : null;
    const most = items === null ? Math.min(max ?? prefix.length, prefix.length) : max;
    if (most !== null && most < min)
      throw this.#invalid(join(path, 'minItems'), `at most ${most} (what there may be), got ${min}`);
    return { type: 'array', prefix: prefix.slice(0, most ?? prefix.length), items, min, max: most };
  }

  #object(schema: SchemaObject, path: string, depth: number): SchemaNode {
    const given = schema.properties ?? {};
    if (!isObject(given))
      throw this.#invalid(join(path, 'properties'), `an object of schemas, got ${describe(given)}`);
    const required = this.#required(schema, path);
    const others = this.#others(schema, path, depth);
    const named = Object.entries(given).map(([name, value]): Property => ({
      name,
      isRequired: required.has(name),
      value: this.#schema(value, join(join(path, 'properties'), name), depth + 1),
    }));
    const unnamed = [...required].filter((name) => !Object.hasOwn(given, name));
    if (unnamed.length > 0 && schema.additionalProperties === false)
      throw this.#invalid(join(path, 'required'), `names of properties, got ${describe(unnamed[0])}`);
    const properties = [
      ...named,
      ...unnamed.map((name): Property => ({ name, isRequired: true, value: others ?? { type: 'any' } })),
    ];
    return { type: 'object', properties, others, ...this.#numOthers(schema, properties, others, path) };
  }

  #required(schema: SchemaObject, path: string): Set<string> {
    const names: unknown = schema.required ?? [];
    const at = join(path, 'required');
    if (!Array.isArray(names) || names.some((name) => typeof name !== 'string'))
      throw this.#invalid(at, `a list of names, got ${describe(names)}`);
    this.#count(names.length, at);
    return new Set(names as string[]);
  }

  /** Left open, only properties that are named are written; where none are, any. */
  #others(schema: SchemaObject, path: string, depth: number): SchemaNode | null {
    const { additionalProperties: given, properties } = schema;
    if (given === false) return null;
    if (given !== undefined) return this.#schema(given, join(path, 'additionalProperties'), depth + 1);
    return isObject(properties) && Object.keys(properties).length > 0 ? null : { type: 'any' };
  }

  #numOthers(
    schema: SchemaObject,
    properties: readonly Property[],
    others: SchemaNode | null,
    path: string,
  ): { minOthers: number; maxOthers: number | null } {
    const min = this.#size(schema, 'minProperties', path) ?? 0;
    const max = this.#size(schema, 'maxProperties', path);
    const numRequired = properties.filter(({ isRequired }) => isRequired).length;
    const numOptional = properties.length - numRequired;
    const isLeft = others !== null;
    if ((max !== null && max < numRequired) || (max !== null && max < min))
      throw this.#invalid(join(path, 'maxProperties'), `room for what is required, got ${max}`);
    if (min > properties.length && !isLeft)
      throw this.#invalid(join(path, 'minProperties'), `at most ${properties.length} here, got ${min}`);
    const isMinFree = min <= numRequired;
    const isMaxFree = max === null || (!isLeft && max >= properties.length);
    if (numOptional > 0 && !(isMinFree && isMaxFree)) {
      const keyword = isMinFree ? 'maxProperties' : 'minProperties';
      throw this.#unsupported(join(path, keyword), `"${keyword}" beside optional properties`);
    }
    return {
      minOthers: isLeft ? Math.max(0, min - numRequired) : 0,
      maxOthers: max === null ? null : max - numRequired,
    };
  }

  // ---- errors

  #invalid(path: string, expected: string): AppError {
    return new AppError('invalid_request', `${path}: expected ${expected}`, { param: this.#param });
  }

  #unsupported(path: string, what: string): AppError {
    return new AppError('unsupported_value', `${path}: cannot enforce ${what}`, { param: this.#param });
  }
}

function isObject(value: unknown): value is SchemaObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function join(path: string, key: string): string {
  const short = key.length > 60 ? `${key.slice(0, 60)}...` : key;
  return `${path}.${short}`;
}

function decodePart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function dotted(pointer: string): string {
  return pointer.slice(1).replaceAll('/', '.').slice(0, 200);
}

function ownValue(table: Readonly<Record<string, string>>, key: unknown): unknown {
  return typeof key === 'string' && Object.hasOwn(table, key) ? table[key] : undefined;
}

/** Without a type, keywords of a type apply to values of that type, and others are not held to anything: they are left out. */
function impliedTypes(keywords: readonly string[]): TypeName[] {
  const types = TYPES.filter((type) => TYPE_KEYWORDS[type].some((name) => keywords.includes(name)));
  return types;
}

function isOfType(value: unknown, type: TypeName): boolean {
  switch (type) {
    case 'object':
      return isObject(value);
    case 'array':
      return Array.isArray(value);
    case 'integer':
      return Number.isInteger(value);
    case 'null':
      return value === null;
    default:
      return typeof value === type;
  }
}

/** As the grammars of objects and arrays write them: a space behind commas and colons. */
function writeJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(writeJson).join(', ')}]`;
  if (!isObject(value)) return JSON.stringify(value);
  const entries = Object.entries(value).map(([key, inner]) => `${JSON.stringify(key)}: ${writeJson(inner)}`);
  return `{${entries.join(', ')}}`;
}
