/** What the engine needs to know of a tokenizer's vocabulary to constrain texts: plain data, so that it crosses threads. */

export interface Vocabulary {
  /**
   * The text of each token, by id, joined by line ends, in GPT-2's byte alphabet, which has neither line ends nor spaces;
   * empty = it is never part of a constrained text.
   */
  readonly texts: string;
  /**
   * The library takes any lead byte with any continuation bytes for a character. Where tokens hold part of a character,
   * these tell which may follow which: by id, the number of the lead byte that the token ends with (0 = none of those that matter),
   */
  readonly leads: Uint8Array;
  /** and a bit for the number of each lead byte that the token must not follow. */
  readonly barred: Uint8Array;
}

/** Which tokens would make a broken character, by the lead byte that stands before them. */
export class Utf8Guard {
  readonly #leads: Uint8Array;
  readonly #barred: readonly (readonly number[])[];

  constructor({ leads, barred }: Vocabulary) {
    this.#leads = leads;
    const ids = Array.from(barred.keys()).filter((id) => barred[id] !== 0);
    this.#barred = Array.from({ length: 5 }, (_, lead) =>
      ids.filter((id) => lead > 0 && (((barred[id] ?? 0) >> lead) & 1) === 1),
    );
  }

  /** Tokens that must not follow this one. */
  barredBehind(tokenId: number): readonly number[] {
    return this.#barred[this.#leads[tokenId] ?? 0] ?? [];
  }
}
