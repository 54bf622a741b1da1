/** Turns the patterns of a tokenizer.json (a literal, or a regular expression of Oniguruma) into JavaScript's. */
import * as tokenizers from '@huggingface/tokenizers';
import { invariant } from '../errors.ts';
import type { PatternConfig, SplitBehavior } from './tokenizer-file.ts';

/** The package's own declarations do not resolve under NodeNext (their relative imports lack an extension). */
const { SplitPreTokenizer } = tokenizers as unknown as {
  SplitPreTokenizer: new (config: { pattern: PatternConfig; behavior: 'isolated'; invert: false }) => {
    pattern: RegExp | null;
  };
};

/**
 * A global, Unicode-aware expression. The library translates what differs: `\s` and `\d` by Unicode property,
 * `\A`, `\z`, inline flags, possessive quantifiers.
 * @throws SyntaxError for an expression that JavaScript cannot have.
 */
export function compilePattern(pattern: PatternConfig): RegExp {
  if ('String' in pattern) return new RegExp(escapeRegExp(pattern.String), 'gu');
  const { pattern: compiled } = new SplitPreTokenizer({ pattern, behavior: 'isolated', invert: false });
  invariant(compiled !== null, 'a Regex pattern compiles or throws');
  return compiled;
}

export function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}

/** The pieces of `text`, none empty. `invert` swaps what counts as a match and what as the text between. */
export function splitByPattern(
  text: string,
  pattern: RegExp,
  behavior: SplitBehavior,
  invert: boolean,
): string[] {
  const spans: Span[] = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) spans.push({ start: end, end: match.index, isMatch: invert });
    end = match.index + match[0].length;
    spans.push({ start: match.index, end, isMatch: !invert });
  }
  if (end < text.length) spans.push({ start: end, end: text.length, isMatch: invert });
  return merge[behavior](spans)
    .filter((span) => span.end > span.start)
    .map((span) => text.slice(span.start, span.end));
}

/** UTF-16 offsets. */
interface Span {
  readonly start: number;
  readonly end: number;
  readonly isMatch: boolean;
}

const merge: Record<SplitBehavior, (spans: Span[]) => Span[]> = {
  Isolated: (spans) => spans,
  Removed: (spans) => spans.filter((span) => !span.isMatch),
  Contiguous: (spans) => mergeNeighbours(spans, (left, right) => left.isMatch === right.isMatch),
  MergedWithPrevious: (spans) => mergeNeighbours(spans, (left, right) => right.isMatch && !left.isMatch),
  MergedWithNext: (spans) => mergeNeighbours(spans, (left, right) => left.isMatch && !right.isMatch),
};

/** Joins each span to the one before it where `joins` says so of the two as they were. */
function mergeNeighbours(spans: Span[], joins: (left: Span, right: Span) => boolean): Span[] {
  const merged: Span[] = [];
  let left: Span | undefined;
  for (const span of spans) {
    const group = merged.pop();
    if (group !== undefined && left !== undefined && joins(left, span))
      merged.push({ ...span, start: group.start });
    else if (group !== undefined) merged.push(group, span);
    else merged.push(span);
    left = span;
  }
  return merged;
}
