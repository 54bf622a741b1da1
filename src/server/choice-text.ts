/** One choice's way from token ids to text: detokenise, look for stop strings, release what is certain. */
import type { FinishReason, TokenLogprobs } from '../runtime/protocol.ts';
import { Detokenizer } from '../text/detokenizer.ts';
import { StopStrings } from '../text/stop-strings.ts';
import type { Tokenizer } from '../text/tokenizer.ts';

export interface GeneratedToken {
  readonly id: number;
  readonly logprobs: TokenLogprobs;
  /** Where its text begins in the choice's text, in characters (code points). */
  readonly offset: number;
}

/** Text that became certain, and the tokens with log-probabilities that it took. */
export interface Released {
  readonly text: string;
  readonly tokens: readonly GeneratedToken[];
}

export interface ChoiceTextOptions {
  readonly stop: readonly string[];
  /** Stop strings are looked for only in text after this many tokens. */
  readonly minTokens: number;
}

export class ChoiceText {
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopStrings;
  readonly #minTokens: number;
  #held: GeneratedToken[] = [];
  #numCharacters = 0;
  /** Tokens that count: up to the one that completed a stop string. */
  numTokens = 0;
  /** Tokens that the engine made before it heard of the stop string. */
  numDropped = 0;
  finishReason: FinishReason | null = null;

  constructor(tokenizer: Tokenizer, promptIds: Int32Array, { stop, minTokens }: ChoiceTextOptions) {
    this.#detokenizer = new Detokenizer(tokenizer, promptIds);
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
      return { text: '', tokens: [] };
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
    const tokens = this.#held;
    this.#held = [];
    return { text, tokens };
  }

  #search(text: string): string {
    const released = this.#stops.push(text);
    if (this.#stops.matched !== null) this.finishReason = 'stop';
    return released;
  }

  /** Tokens wait for their text, so that a client can line both up; after a match nothing more is held. */
  #release(text: string): Released {
    if (text === '' && !this.isFinished) return { text, tokens: [] };
    const tokens = this.#held;
    this.#held = [];
    return { text, tokens };
  }
}

/** Code points, which is what clients that slice Python strings count. */
export function countCharacters(text: string): number {
  return text.length - (text.match(/[\uD800-\uDBFF][\uDC00-\uDFFF]/g)?.length ?? 0);
}
