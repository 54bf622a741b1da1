/** Lets a model think before the part of its reply that a grammar enforces. */
import type { StructuralTagFormat, TagFormat } from '@mlc-ai/web-xgrammar';
import { THINK_BEGIN, THINK_END } from './reasoning.ts';
import type { ReasoningStage } from './reasoning.ts';

/** A structural tag for a whole reply: a thought as the stage allows, then `format`. */
export function afterReasoning(format: StructuralTagFormat, stage: ReasoningStage): StructuralTagFormat {
  if (stage === 'none') return format;
  const begin = stage === 'open' ? '' : THINK_BEGIN;
  const thought: TagFormat = { type: 'tag', begin, content: { type: 'any_text' }, end: THINK_END };
  const thoughtful: StructuralTagFormat = {
    type: 'sequence',
    elements: [thought, { type: 'regex', pattern: '\\s{0,4}' }, format],
  };
  return stage === 'open' ? thoughtful : { type: 'or', elements: [thoughtful, format] };
}
