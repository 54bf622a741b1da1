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
  tools: Pick<ToolUse, 'grammar' | 'callsAlone'>,
  content: StructuralTagFormat | null,
  reasoning: ReasoningStage,
): StructuralTagFormat | null {
  const format = contentOrCalls(tools, content);
  return format && afterReasoning(format, reasoning);
}

function contentOrCalls(
  { grammar, callsAlone }: Pick<ToolUse, 'grammar' | 'callsAlone'>,
  content: StructuralTagFormat | null,
): StructuralTagFormat | null {
  if (content === null || grammar?.isRequired === true) return grammar?.format ?? null;
  const calls = callsAlone();
  return calls === null ? content : either(content, calls);
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
