/** What parsers of tool calls share: text comes in as pieces with markers told apart, events go out. */
import { MarkerSplitter } from '../markers.ts';
import type { MarkedPiece } from '../markers.ts';
import { CallOutput } from './call-output.ts';
import type { CallEvent, CallParser } from './contract.ts';

export abstract class MarkedParser implements CallParser {
  protected readonly output: CallOutput;
  readonly #splitter: MarkerSplitter;

  /** @param hidden markers that are control tokens: never part of content */
  constructor(markers: readonly string[], hidden: ReadonlySet<string>) {
    this.#splitter = new MarkerSplitter(markers);
    this.output = new CallOutput(hidden);
  }

  push(text: string): CallEvent[] {
    for (const piece of this.#splitter.push(text)) this.take(piece);
    return this.output.take();
  }

  finish(): CallEvent[] {
    for (const piece of this.#splitter.flush()) this.take(piece);
    this.giveUp();
    return this.output.finish();
  }

  protected abstract take(piece: MarkedPiece): void;

  /** Ends what has begun; what was no call is content again. */
  protected abstract giveUp(): void;
}
