/** Structural tags as constraints: every schema in them becomes a grammar of ours. */
import type { StructuralTagFormat, TagFormat } from '@mlc-ai/web-xgrammar';
import { type GrammarOptions, schemaGrammar } from './schema-grammar.ts';

/**
 * The `constraint` of a generation request.
 * The library's own reading of schemas ignores keywords that it does not know, and lets whitespace go on for ever.
 * @throws AppError for a schema that cannot be enforced
 */
export function constraintOf(format: StructuralTagFormat, options: GrammarOptions): string {
  return JSON.stringify({ type: 'structural_tag', format: withGrammars(format, options) });
}

function withGrammars(format: StructuralTagFormat, options: GrammarOptions): StructuralTagFormat {
  switch (format.type) {
    case 'json_schema':
      return { type: 'grammar', grammar: schemaGrammar(format.json_schema, options) };
    case 'sequence':
    case 'or':
      return { ...format, elements: format.elements.map((element) => withGrammars(element, options)) };
    case 'tag':
      return tagWithGrammars(format, options);
    case 'triggered_tags':
    case 'tags_with_separator':
      return { ...format, tags: format.tags.map((tag) => tagWithGrammars(tag, options)) };
    default:
      return format;
  }
}

function tagWithGrammars(tag: TagFormat, options: GrammarOptions): TagFormat {
  return { ...tag, content: withGrammars(tag.content, options) };
}
