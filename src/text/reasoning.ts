/** Splits a reply into what the model thinks, between `<think>` and `</think>`, and what it answers. */
import { MarkerSplitter } from './markers.ts';
import type { MarkedPiece } from './markers.ts';

export const THINK_BEGIN = '<think>';
export const THINK_END = '</think>';
/** Control tokens in some vocabularies; a splitter needs to see them in the text. */
export const REASONING_MARKERS: readonly string[] = [THINK_BEGIN, THINK_END];

export type ReasoningPiece =
  { readonly type: 'reasoning'; readonly text: string } | { readonly type: 'content'; readonly text: string };

/** Where a reply begins: a thought is not to be expected, may come first, or was begun by the prompt. */
export type ReasoningStage = 'none' | 'possible' | 'open';

/** What a model with this chat template does after this prompt. */
export function reasoningStage(templateSource: string, prompt: string): ReasoningStage {
  const end = prompt.trimEnd();
  if (end.endsWith(THINK_END) || !REASONING_MARKERS.some((marker) => templateSource.includes(marker)))
    return 'none';
  return end.endsWith(THINK_BEGIN) ? 'open' : 'possible';
}

export interface ReasoningOptions {
  /** The prompt opened the thought already. */
  readonly isOpen: boolean;
  /** Markers that are control tokens: never part of what is released. */
  readonly hidden: ReadonlySet<string>;
}

/**
 * A reply has one thought; tags before or after it that do not belong to it are content. A thought that never ends is
 * all reasoning. White space at the edges of a thought belongs to neither.
 */
export class ReasoningSplitter {
  readonly #splitter = new MarkerSplitter(REASONING_MARKERS);
  readonly #hidden: ReadonlySet<string>;
  #stage: 'before' | 'thought' | 'after';
  /** White space that is dropped if the thought begins or ends here. */
  #space = '';
  /** Of this stage, something was released. */
  #hasText = false;
  #hasContent = false;

  constructor({ isOpen, hidden }: ReasoningOptions) {
    this.#stage = isOpen ? 'thought' : 'before';
    this.#hidden = hidden;
  }

  push(chunk: string): ReasoningPiece[] {
    return this.#take(this.#splitter.push(chunk));
  }

  /** What was held back, once no more text comes. */
  finish(): ReasoningPiece[] {
    const pieces = this.#take(this.#splitter.flush());
    const isLost = this.#stage === 'thought' || (this.#stage === 'after' && !this.#hasText);
    return isLost || this.#space === '' ? pieces : [...pieces, { type: 'content', text: this.#space }];
  }

  #take(pieces: readonly MarkedPiece[]): ReasoningPiece[] {
    return pieces.flatMap(({ type, text }): ReasoningPiece[] => {
      if (type === 'marker' && this.#turns(text)) return [];
      if (type === 'marker' && this.#hidden.has(text)) return [];
      return this.#release(text);
    });
  }

  /** True if the marker begins or ends the thought. */
  #turns(marker: string): boolean {
    if (this.#stage === 'before' && marker === THINK_BEGIN) this.#stage = 'thought';
    else if (this.#stage === 'thought' && marker === THINK_END) this.#stage = 'after';
    // Some models repeat the tag that their prompt ends with.
    else return this.#stage === 'thought' && marker === THINK_BEGIN && !this.#hasText;
    this.#space = '';
    this.#hasText = false;
    return true;
  }

  #release(text: string): ReasoningPiece[] {
    const all = this.#space + text;
    const body = all.trimEnd();
    this.#space = all.slice(body.length);
    if (body === '') return [];
    const isThought = this.#stage === 'thought';
    const isFirst = !this.#hasText && (isThought || (this.#stage === 'after' && !this.#hasContent));
    this.#hasText = true;
    this.#hasContent ||= !isThought;
    return [{ type: isThought ? 'reasoning' : 'content', text: isFirst ? body.trimStart() : body }];
  }
}
