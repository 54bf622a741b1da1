/** What content must look like, as the engine enforces it. */
import type { StructuralTagFormat } from '@mlc-ai/web-xgrammar';
import { ANY_OBJECT, schemaGrammar } from '../text/json-schema/schema-grammar.ts';
import type { LoadedModel } from './model.ts';
import type { ResponseFormat, TextFormat } from './schemas/response-format.ts';

type Absent = null | undefined;

/**
 * @returns null = anything will do
 * @throws AppError naming the schema, for one that is none or cannot be enforced
 */
export function chatContent(format: ResponseFormat | Absent, model: LoadedModel): StructuralTagFormat | null {
  const schema = format?.type === 'json_schema' ? format.json_schema.schema : null;
  return content(format, schema, 'response_format.json_schema.schema', model);
}

/** As `chatContent`. */
export function responseContent(format: TextFormat | Absent, model: LoadedModel): StructuralTagFormat | null {
  const schema = format?.type === 'json_schema' ? format.schema : null;
  return content(format, schema, 'text.format.schema', model);
}

function content(
  format: { readonly type: string } | Absent,
  schema: unknown,
  param: string,
  { tokenizer }: LoadedModel,
): StructuralTagFormat | null {
  if (format == null || format.type === 'text') return null;
  const { vocabSize } = tokenizer;
  const grammar = schemaGrammar(format.type === 'json_object' ? ANY_OBJECT : schema, { param, vocabSize });
  return { type: 'grammar', grammar };
}

/** The `constraint` of a job. */
export function constraintOf(format: StructuralTagFormat | null): string | null {
  return format && JSON.stringify({ type: 'structural_tag', format });
}
