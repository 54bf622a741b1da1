/** Runs grammars without a model: whether they take a text, and texts that they produce from bytes drawn at random. */
import { ConstraintCompiler } from '../../../src/runtime/constraint/compiler.ts';
import { loadGrammarLibrary } from '../../../src/runtime/constraint/library.ts';
import { schemaGrammar } from '../../../src/text/json-schema/schema-grammar.ts';
import { vocabularyOf } from '../../../src/text/vocabulary.ts';

const library = loadGrammarLibrary();

/** A vocabulary of bytes, and a few texts that cross the borders of what a grammar distinguishes. */
const TEXTS = [
  '"',
  '": "',
  '",',
  '"}',
  '{"',
  '\\"',
  '\\n',
  'é',
  '漢字',
  '😀',
  'ab',
  '00',
  '1.',
  ', "a',
  '}]',
  ']}',
  '  ',
];
const TOKENS = [
  ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  ...TEXTS.map((text) => new TextEncoder().encode(text)),
];
const compiler = new ConstraintCompiler(vocabularyOf(TOKENS), TOKENS.length);

function grammarOf(schema: unknown): string {
  return schemaGrammar(schema, { param: 'schema', vocabSize: TOKENS.length });
}

export type Accepts = (text: string) => Promise<boolean>;

export async function accepting(schema: unknown): Promise<Accepts> {
  const grammar = await library.Grammar.fromEBNF(grammarOf(schema));
  return (text) => library.Testings.isGrammarAcceptString(grammar, text);
}

/**
 * A text that the schema's grammar allows, each token drawn among those that may come, ends preferred after `softLimit`
 * tokens. Null if it was not complete after 2000.
 */
export async function drawText(
  schema: unknown,
  random: () => number,
  softLimit = 200,
): Promise<string | null> {
  const constraint = JSON.stringify({
    type: 'structural_tag',
    format: { type: 'grammar', grammar: grammarOf(schema) },
  });
  const [matcher] = await compiler.createMatchers(constraint, 1, []);
  if (matcher === undefined) throw new Error('no matcher');
  const bytes: number[] = [];
  const logits = new Float32Array(TOKENS.length);
  try {
    for (let step = 0; step < 2000; step++) {
      logits.fill(0);
      if (!matcher.mask(logits))
        return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(bytes));
      const allowed = [...logits.keys()].filter((id) => logits[id] === 0);
      const closing = allowed.filter((id) => '"]}'.includes(String.fromCharCode(TOKENS[id]![0]!)));
      const from = step >= softLimit && closing.length > 0 ? closing : allowed;
      const id = from[Math.floor(random() * from.length)]!;
      bytes.push(...TOKENS[id]!);
      matcher.accept(id);
      await Promise.resolve();
      await Promise.resolve();
    }
    return null;
  } finally {
    matcher.free();
  }
}

export function seeded(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
