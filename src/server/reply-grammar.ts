/** What a whole reply must look like: a thought where one may come first, then content or calls. */
import type { StructuralTagFormat } from '@mlc-ai/web-xgrammar';
import { afterReasoning } from '../text/reasoning-grammar.ts';
import type { ReasoningStage } from '../text/reasoning.ts';
import type { ToolUse } from './tools.ts';

/**
 * @param content what content must look like; null = anything will do
 * @returns null = nothing is enforced
 */
export function replyGrammar(
  { grammar, callsAlone }: Pick<ToolUse, 'grammar' | 'callsAlone'>,
  content: StructuralTagFormat | null,
  reasoning: ReasoningStage,
): StructuralTagFormat | null {
  const format = grammar?.isRequired === true || content === null ? grammar?.format : content;
  if (format === undefined) return null;
  const isEither = format === content && callsAlone !== null;
  return afterReasoning(isEither ? either(format, callsAlone) : format, reasoning);
}

/** The library has no choice between a format that is open-ended, as most of calls are, and one that is not. */
function either(content: StructuralTagFormat, calls: StructuralTagFormat): StructuralTagFormat {
  return { type: 'or', elements: [openEnded(content), openEnded(calls)] };
}

function openEnded(format: StructuralTagFormat): StructuralTagFormat {
  if (format.type === 'tags_with_separator' || format.type === 'sequence') return format;
  return {
    type: 'tags_with_separator',
    tags: [{ type: 'tag', begin: '', content: format, end: '' }],
    separator: '\n',
    at_least_one: true,
    stop_after_first: true,
  };
}
