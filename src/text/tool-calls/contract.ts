/** What a format of tool calls is: how a model writes them, how they are read, and the grammar that enforces them. */
import type { StructuralTagFormat } from '@mlc-ai/web-xgrammar';

/** Calls count from 0; the texts of a call's `arguments` events, joined, are its arguments as the model wrote them. */
export type CallEvent =
  | { readonly type: 'content'; readonly text: string }
  | { readonly type: 'call'; readonly index: number; readonly name: string }
  | { readonly type: 'arguments'; readonly index: number; readonly text: string };

/**
 * Reads a reply piece by piece; however it is cut, the calls and the content are the same. A call is told of once its
 * name is known and its arguments have begun; text that looked like a call and was none comes back as content.
 */
export interface CallParser {
  push(text: string): CallEvent[];
  /** No more text comes. */
  finish(): CallEvent[];
}

export interface ParserOptions {
  /** Of the request's tools. */
  readonly names: ReadonlySet<string>;
  /** Markers that are control tokens: never part of content. */
  readonly hidden: ReadonlySet<string>;
}

/**
 * The part of a call in which tools differ: the name of one, `between`, and its arguments. One format for all of them, since
 * grammars that are compiled apart cost as often what they have in common.
 */
export type CallContent = (between: string) => StructuralTagFormat;

export interface CallGrammarOptions {
  /** Whether the reply must be calls; otherwise text is as good, and only calls in it are held to the grammar. */
  readonly isRequired: boolean;
  /** Whether there may be several. */
  readonly isParallel: boolean;
}

export interface ToolCallFormat {
  readonly name: string;
  /** Texts that frame calls. They may be control tokens of the vocabulary; a parser needs to see them in the text. */
  readonly markers: readonly string[];
  /** Whether a model with this chat template writes its calls so. */
  detect(templateSource: string): boolean;
  createParser(options: ParserOptions): CallParser;
  /** A structural tag of xgrammar for the reply. */
  grammar(content: CallContent, options: CallGrammarOptions): StructuralTagFormat;
  /** A new id, in the shape that the model's template takes. */
  newCallId(): string;
}
