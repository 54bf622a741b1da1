/**
 * A JSON schema as a grammar. Values come on one line, with the separators of Python's `json.dumps` or none: free
 * whitespace is where small models get lost.
 */
import { AppError } from '../../errors.ts';
import { literal, oneOf, repeated, Rules } from './ebnf.ts';
import { choice, type Expression, ExpressionError, text } from './expression.ts';
import { otherKeys } from './keys.ts';
import type { ArrayNode, Definition, ObjectNode, SchemaNode } from './node.ts';
import { numbers } from './number-range.ts';
import { readSchema } from './read-schema.ts';
import { type Branch, regularGrammar, textsGrammar } from './regular-grammar.ts';

/** Any JSON object. */
export const ANY_OBJECT = { type: 'object' } as const;

/** Canonical: one spelling for each character, so that no key can be written in two ways. */
const CHARACTER = '[^"\\\\\\x00-\\x1f] | "\\\\" ["\\\\bfnrt]';
const SPACE = '" "?';

/**
 * Each position in a string costs a look at most of the vocabulary when the grammar is compiled, about 0.35 µs a token:
 * this bounds a compilation to about two seconds.
 */
const MAX_TOKEN_VISITS = 5_000_000;

export interface GrammarOptions {
  /** Names the schema in errors. */
  readonly param: string;
  /** Tokens of the vocabulary. */
  readonly vocabSize: number;
}

/**
 * A grammar in xgrammar's EBNF, whose texts are JSON that the schema accepts.
 * @throws AppError `invalid_request`, `unsupported_value` for a schema that is none, or cannot be enforced
 */
export function schemaGrammar(schema: unknown, { param, vocabSize }: GrammarOptions): string {
  return choiceGrammar([{ before: '', node: readSchema(schema, param), param }], vocabSize);
}

/** A text, and what follows it. */
export interface GrammarChoice {
  readonly before: string;
  readonly node: SchemaNode;
  /** Names the schema in errors. */
  readonly param: string;
}

/**
 * One of several schemas, each behind a text of its own, in one grammar: what they have in common is compiled once.
 * @param vocabSize tokens of the vocabulary
 * @throws AppError `unsupported_value`
 */
export function choiceGrammar(choices: readonly GrammarChoice[], vocabSize: number): string {
  const writer = new GrammarWriter();
  const budget = Math.floor(MAX_TOKEN_VISITS / vocabSize);
  const branches = choices.map(({ before, node, param }): Branch => {
    const refuse = (message: string, cause?: Error): AppError =>
      new AppError('unsupported_value', `${param}: ${message}`, { param, cause });
    try {
      const then = writer.value(node);
      if (writer.cost <= budget) return { text: before, then };
    } catch (error) {
      throw error instanceof ExpressionError ? refuse(error.message, error) : error;
    }
    throw refuse(
      `expected at most ${budget} places in strings to tell apart with this model's vocabulary (by minLength, maxLength, pattern, format, and names beside additionalProperties), got ${Math.ceil(writer.cost)}`,
    );
  });
  return writer.text(branches);
}

class GrammarWriter {
  /** Positions in strings, weighted by how much of a vocabulary fits there. */
  cost = 0;
  readonly #rules = new Rules();
  readonly #definitions = new Map<Definition, string>();
  readonly #space = this.#rules.share(SPACE);
  /** Rules of expressions. */
  readonly #expressions = new Map<string, string>();
  #any: string | null = null;

  /** The whole grammar. */
  text(branches: readonly Branch[]): string {
    return this.#rules.text(textsGrammar(branches, this.#rules));
  }

  /** An expression for values. */
  value(node: SchemaNode): string {
    switch (node.type) {
      case 'any':
        return this.#anyValue();
      case 'array':
        return this.#rules.share(this.#array(node));
      case 'object':
        return this.#rules.share(this.#object(node));
      case 'reference':
        return this.#definition(node.target);
      default:
        return this.#oneOf(flatten(node));
    }
  }

  /**
   * Scalars of a kind become one expression: apart, they could begin alike. Those of different kinds cannot; arrays and
   * objects are rules with further rules in them, which the library does not mix with others.
   */
  #oneOf(nodes: readonly SchemaNode[]): string {
    if (nodes.some(({ type }) => type === 'any')) return this.#anyValue();
    const texts = nodes.flatMap(textsOf);
    const isAnyString = nodes.some((node) => node.type === 'string' && node.expression === null);
    const expressions = (isString: boolean): Expression[] =>
      nodes.flatMap((node) =>
        'expression' in node && node.expression !== null && (node.type === 'string') === isString
          ? [node.expression]
          : [],
      );
    const starting = (pattern: RegExp): string[] => texts.filter((text) => pattern.test(text));
    const choices = [
      isAnyString ? this.#string() : this.#regular(starting(/^"/), expressions(true)),
      this.#regular(starting(/^[-\d]/), expressions(false)),
      this.#regular(starting(/^[^-"\d]/), []),
      ...nodes
        .filter(({ type }) => type === 'array' || type === 'object' || type === 'reference')
        .map((node) => this.value(node)),
    ];
    return oneOf([...new Set(choices.filter((choice) => choice !== null))]) ?? '""';
  }

  /** Null if there are none. */
  #regular(texts: readonly string[], expressions: readonly Expression[]): string | null {
    if (texts.length + expressions.length === 0) return null;
    if (expressions.length === 0) {
      const branches = texts.map((text): Branch => ({ text, then: '""' }));
      return this.#rules.share(textsGrammar(branches, this.#rules));
    }
    const expression = choice([...texts.map(text), ...expressions]);
    const key = JSON.stringify(expression);
    let rule = this.#expressions.get(key);
    if (rule === undefined && expression !== null) {
      const grammar = regularGrammar(expression, this.#rules);
      this.cost += grammar.cost;
      rule = this.#rules.share(grammar.text);
      this.#expressions.set(key, rule);
    }
    return rule ?? null;
  }

  #definition(definition: Definition): string {
    const known = this.#definitions.get(definition);
    if (known !== undefined) return known;
    const name = this.#rules.reserve();
    this.#definitions.set(definition, name);
    if (definition.node !== null) this.#rules.define(name, this.value(definition.node));
    return name;
  }

  #string(): string {
    const character = this.#rules.share(CHARACTER);
    return this.#rules.share(`"\\"" ${character}* "\\""`);
  }

  #anyValue(): string {
    if (this.#any !== null) return this.#any;
    const any = this.#rules.reserve();
    this.#any = any;
    const array = this.#bracketed('[', this.#rules.share(this.#listed(any, 1, null)), ']');
    const member = this.#rules.share(`${this.#string()} ":" ${this.#space} ${any}`);
    const object = this.#bracketed('{', this.#rules.share(this.#listed(member, 1, null)), '}');
    const number = this.#regular(
      [],
      [numbers({ low: null, high: null })].filter((each) => each !== null),
    );
    const scalars = `"true" | "false" | "null" | ${number ?? '""'} | ${this.#string()}`;
    this.#rules.define(any, `${scalars} | ${this.#rules.share(array)} | ${this.#rules.share(object)}`);
    return any;
  }

  /** `content` is never empty; without it, nothing stands between the brackets. */
  #bracketed(open: string, content: string | null, close: string, isRequired = false): string {
    if (content === null) return `"${open}${close}"`;
    const inner = `${this.#space} ${content} ${this.#space}`;
    return isRequired ? `"${open}" ${inner} "${close}"` : `"${open}" (${inner})? "${close}"`;
  }

  /** At least one item, with commas between. */
  #listed(item: string, min: number, max: number | null): string {
    if (max === 1) return item;
    const more = this.#rules.share(`"," ${this.#space} ${item}`);
    return `${item} ${repeated(more, Math.max(0, min - 1), max === null ? null : max - 1)}`;
  }

  // ---- arrays

  #array({ prefix, items, min, max }: ArrayNode): string {
    if (max === 0 || (prefix.length === 0 && items === null)) return '"[]"';
    if (prefix.length === 0 && items !== null)
      return this.#bracketed('[', this.#rules.share(this.#listed(this.value(items), min, max)), ']', min > 0);
    // From the last item on: what may follow each.
    let rest: string | null = null;
    if (items !== null && (max === null || max > prefix.length)) {
      const more = this.#rules.share(`"," ${this.#space} ${this.value(items)}`);
      rest = repeated(more, Math.max(0, min - prefix.length), max === null ? null : max - prefix.length);
    }
    for (let i = prefix.length - 1; i >= 0; i--) {
      const item = this.value(prefix[i] ?? { type: 'any' });
      const whole = `${item}${rest === null ? '' : ` ${rest}`}`;
      if (i === 0) return this.#bracketed('[', this.#rules.share(whole), ']', min > 0);
      const following = this.#rules.share(`"," ${this.#space} ${whole}`);
      rest = i < min ? following : `${following}?`;
    }
    return '"[]"';
  }

  // ---- objects

  #object(node: ObjectNode): string {
    const { properties, others, minOthers, maxOthers } = node;
    const hasOthers = others !== null && maxOthers !== 0;
    const open = hasOthers ? this.#otherMembers(node) : null;
    if (properties.length === 0) {
      if (open === null) return '"{}"';
      const listed = this.#rules.share(this.#listed(open, minOthers, maxOthers));
      return this.#bracketed('{', listed, '}', minOthers > 0);
    }
    const members = properties.map(({ name, value }) => {
      const key = literal(`${JSON.stringify(name)}:`);
      return this.#rules.share(`${key} ${this.#space} ${this.value(value)}`);
    });
    // From the last property on: what may follow once something was written, and what may come first.
    let rest = open === null ? '""' : repeated(this.#following(open), minOthers, maxOthers);
    let first = open === null ? null : this.#rules.share(this.#listed(open, minOthers, maxOthers));
    let isEmptyIn = minOthers === 0;
    for (let i = properties.length - 1; i >= 0; i--) {
      const member = members[i] ?? '""';
      const begun = rest === '""' ? member : `${member} ${rest}`;
      if (properties[i]?.isRequired === true) {
        first = begun;
        rest = this.#rules.share(`"," ${this.#space} ${begun}`);
        isEmptyIn = false;
      } else {
        first = this.#rules.share(first === null ? begun : `${begun} | ${first}`);
        rest = this.#rules.share(`"," ${this.#space} ${begun} | ${rest}`);
      }
    }
    return this.#bracketed('{', first === null ? null : this.#rules.share(first), '}', !isEmptyIn);
  }

  #following(member: string): string {
    return this.#rules.share(`"," ${this.#space} ${member}`);
  }

  #otherKeys(names: readonly string[]): string {
    return otherKeys(names, this.#rules, () => {
      this.cost++;
    });
  }

  /** A member of a name that is not among the properties: equal names would hide each other's values. */
  #otherMembers({ properties, others }: ObjectNode): string {
    const value = this.value(others ?? { type: 'any' });
    const names = properties.map(({ name }) => name);
    const key = names.length === 0 ? this.#string() : this.#otherKeys(names);
    return this.#rules.share(`${key} ":" ${this.#space} ${value}`);
  }
}

/** What a union comes to, without unions and references to scalars; each reference is followed once. */
function flatten(node: SchemaNode, seen = new Set<Definition>()): SchemaNode[] {
  if (node.type === 'union') return node.choices.flatMap((choice) => flatten(choice, seen));
  if (node.type !== 'reference') return [node];
  const { target } = node;
  if (seen.has(target)) return [];
  seen.add(target);
  if (target.node === null || target.node.type === 'array' || target.node.type === 'object') return [node];
  return flatten(target.node, seen);
}

function textsOf(node: SchemaNode): readonly string[] {
  if (node.type === 'literal') return node.texts;
  if (node.type === 'boolean') return ['true', 'false'];
  return node.type === 'null' ? ['null'] : [];
}
