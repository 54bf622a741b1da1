/** Cuts a choice's text into parts: what the model thought, what it says, and the tools it calls. */
import { REASONING_MARKERS, ReasoningSplitter } from '../text/reasoning.ts';
import type { ReasoningPiece, ReasoningStage } from '../text/reasoning.ts';
import type { CallEvent, CallParser, ToolCallFormat } from '../text/tool-calls/contract.ts';
import type { Tokenizer } from '../text/tokenizer.ts';

/** Calls of a choice count from 0; the texts of a call's `arguments` parts, joined, are its arguments. */
export type ChoicePart =
  | ReasoningPiece
  | { readonly type: 'call'; readonly index: number; readonly id: string; readonly name: string }
  | Extract<CallEvent, { type: 'arguments' }>;

/** Reads one choice. */
export interface PartReader {
  push(text: string): ChoicePart[];
  /** No more text comes. */
  finish(): ChoicePart[];
}

/** How the choices of a job are read. */
export interface ReplyFormat {
  /** Control tokens that readers need to see in the text; they never stand in a part's text. */
  readonly shownIds: ReadonlySet<number>;
  createReader(): PartReader;
}

/** The text is content, all of it. */
export const PLAIN_REPLY: ReplyFormat = {
  shownIds: new Set(),
  createReader: () => ({
    push: (text) => (text === '' ? [] : [{ type: 'content', text }]),
    finish: () => [],
  }),
};

/** What of a reply may be calls. */
export interface CallReading {
  readonly format: ToolCallFormat;
  /** Of the request's tools. */
  readonly names: ReadonlySet<string>;
}

export function replyFormat(
  tokenizer: Tokenizer,
  reasoning: ReasoningStage,
  calls: CallReading | null,
): ReplyFormat {
  if (reasoning === 'none' && calls === null) return PLAIN_REPLY;
  const markers = [...(reasoning === 'none' ? [] : REASONING_MARKERS), ...(calls?.format.markers ?? [])];
  const control = tokenizer.controlTokenIds(markers);
  const hidden = new Set(control.keys());
  return {
    shownIds: new Set(control.values()),
    createReader: () =>
      new ChoiceReader(
        reasoning === 'none' ? null : new ReasoningSplitter({ isOpen: reasoning === 'open', hidden }),
        calls && { format: calls.format, parser: calls.format.createParser({ names: calls.names, hidden }) },
      ),
  };
}

interface CallReader {
  readonly format: ToolCallFormat;
  readonly parser: CallParser;
}

class ChoiceReader implements PartReader {
  readonly #reasoning: ReasoningSplitter | null;
  readonly #calls: CallReader | null;

  constructor(reasoning: ReasoningSplitter | null, calls: CallReader | null) {
    this.#reasoning = reasoning;
    this.#calls = calls;
  }

  push(text: string): ChoicePart[] {
    if (text === '') return [];
    return this.#read(this.#reasoning?.push(text) ?? [{ type: 'content', text }]);
  }

  finish(): ChoicePart[] {
    const rest = this.#read(this.#reasoning?.finish() ?? []);
    return [...rest, ...this.#identify(this.#calls?.parser.finish() ?? [])];
  }

  #read(pieces: readonly ReasoningPiece[]): ChoicePart[] {
    return pieces.flatMap((piece): readonly ChoicePart[] => {
      if (piece.type === 'reasoning' || this.#calls === null) return [piece];
      return this.#identify(this.#calls.parser.push(piece.text));
    });
  }

  #identify(events: readonly CallEvent[]): ChoicePart[] {
    return events.map((event) =>
      event.type === 'call' ? { ...event, id: this.#calls?.format.newCallId() ?? '' } : event,
    );
  }
}
