/** One choice's way from token ids to text and its parts: detokenise, look for stop strings, release what is certain. */
import type { FinishReason, TokenLogprobs } from '../runtime/protocol.ts';
import { Detokenizer } from '../text/detokenizer.ts';
import { StopStrings } from '../text/stop-strings.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import type { ChoicePart, PartReader, ReplyFormat } from './choice-parts.ts';

/** Why a choice ended, to a client. */
export type ReplyReason = FinishReason | 'tool_calls';

export interface GeneratedToken {
  readonly id: number;
  readonly logprobs: TokenLogprobs;
  /** Where its text begins in the choice's text, in characters (code points). */
  readonly offset: number;
}

/** Text that became certain, the parts of the choice in it, and the tokens with log-probabilities that it took. */
export interface Released {
  /** As the model wrote it, with all that frames the parts. */
  readonly text: string;
  readonly parts: readonly ChoicePart[];
  readonly tokens: readonly GeneratedToken[];
}

export interface ChoiceTextOptions {
  readonly stop: readonly string[];
  /** Stop strings are looked for only in text after this many tokens. */
  readonly minTokens: number;
  readonly replyFormat: ReplyFormat;
}

const NOTHING: Released = { text: '', parts: [], tokens: [] };

export class ChoiceText {
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopStrings;
  readonly #minTokens: number;
  readonly #reader: PartReader;
  #held: GeneratedToken[] = [];
  /** Text that no part has come of yet. */
  #unread = '';
  #numCharacters = 0;
  /** Tokens that count: up to the one that completed a stop string. */
  numTokens = 0;
  /** Tokens that the engine made before it heard of the stop string. */
  numDropped = 0;
  finishReason: ReplyReason | null = null;
  #hasCalls = false;

  constructor(
    tokenizer: Tokenizer,
    promptIds: Int32Array,
    { stop, minTokens, replyFormat }: ChoiceTextOptions,
  ) {
    this.#detokenizer = new Detokenizer(tokenizer, promptIds, replyFormat.shownIds);
    this.#reader = replyFormat.createReader();
    this.#stops = new StopStrings(stop);
    this.#minTokens = minTokens;
  }

  get isFinished(): boolean {
    return this.finishReason !== null;
  }

  /** Takes the next token; `finishReason` is set when it completes a stop string. */
  push(id: number, logprobs: TokenLogprobs | null): Released {
    if (this.isFinished) {
      this.numDropped++;
      return NOTHING;
    }
    this.numTokens++;
    if (logprobs !== null) this.#held.push({ id, logprobs, offset: this.#numCharacters });
    const text = this.#detokenizer.push(id);
    if (logprobs !== null) this.#numCharacters += countCharacters(text);
    return this.#release(this.numTokens > this.#minTokens ? this.#search(text) : text);
  }

  /** Ends the choice and releases what was held back. */
  finish(reason: FinishReason): Released {
    const text = this.#search(this.#detokenizer.flush()) + this.#stops.flush();
    this.finishReason ??= reason;
    return this.#release(text);
  }

  #search(text: string): string {
    const released = this.#stops.push(text);
    if (this.#stops.matched !== null) this.finishReason = 'stop';
    return released;
  }

  /** Tokens wait for their parts, so that a client can line both up; in the end nothing more is held. */
  #release(text: string): Released {
    this.#unread += text;
    const parts = this.#reader.push(text);
    if (this.isFinished) parts.push(...this.#reader.finish());
    this.#hasCalls ||= parts.some((part) => part.type === 'call');
    if (this.#hasCalls && this.finishReason === 'stop') this.finishReason = 'tool_calls';
    if (parts.length === 0 && !this.isFinished) return NOTHING;
    const released = { text: this.#unread, parts, tokens: this.#held };
    this.#unread = '';
    this.#held = [];
    return released;
  }
}

/** Code points, which is what clients that slice Python strings count. */
export function countCharacters(text: string): number {
  return text.length - (text.match(/[\uD800-\uDBFF][\uDC00-\uDFFF]/g)?.length ?? 0);
}
