/** How far the text of one choice has come in its grammar, and which tokens may come next. */
import type { GrammarMatcher } from '@mlc-ai/web-xgrammar';
import { AppError, invariant } from '../../errors.ts';
import type { Utf8Guard } from './vocabulary.ts';
import { isSet, maskLogits } from './mask.kernel.ts';

export interface ConstraintMatcher {
  /**
   * Sets `logits` [vocabSize] of tokens that may not come next to -Infinity; ids that end the choice may come once the
   * text is complete.
   * @returns false if nothing is left because the text is complete
   * @throws AppError `invalid_request` if nothing is left though it is not; `internal` if the library failed
   */
  mask(logits: Float32Array): boolean;
  /** A token was chosen. The next mask is there as soon as the caller has awaited anything. */
  accept(tokenId: number): void;
  /** Gives its memory back; WebAssembly's is not garbage collected. Nothing may be called afterwards but this. */
  free(): void;
}

export interface MatcherOptions {
  readonly stopTokenIds: readonly number[];
  /** The token that stands for "the text is complete" and that no model has. */
  readonly endId: number;
  readonly guard: Utf8Guard;
  readonly onFree: () => void;
}

/** The first mask is awaited, so that the first `mask` may be called at once. */
export async function createMatcher(
  matcher: GrammarMatcher,
  options: MatcherOptions,
): Promise<ConstraintMatcher> {
  const created = new LibraryMatcher(matcher, options);
  await created.isReady;
  return created;
}

class LibraryMatcher implements ConstraintMatcher {
  isReady: Promise<void>;
  readonly #matcher: GrammarMatcher;
  readonly #stopTokenIds: readonly number[];
  readonly #endId: number;
  readonly #guard: Utf8Guard;
  readonly #onFree: () => void;
  #mask: Int32Array | null = null;
  #isFreed = false;
  #barred: readonly number[] = [];

  constructor(matcher: GrammarMatcher, { stopTokenIds, endId, guard, onFree }: MatcherOptions) {
    this.#matcher = matcher;
    this.#stopTokenIds = stopTokenIds;
    this.#endId = endId;
    this.#guard = guard;
    this.#onFree = onFree;
    this.isReady = this.#prepare();
  }

  mask(logits: Float32Array): boolean {
    const mask = this.#mask;
    if (mask === null)
      throw new AppError('internal', 'the grammar library could not tell what may come next');
    const isComplete = isSet(mask, this.#endId);
    const endings = this.#stopTokenIds.map((id) => [id, logits[id] ?? -Infinity] as const);
    for (const [id] of endings) logits[id] = -Infinity;
    for (const id of this.#barred) logits[id] = -Infinity;
    let isAnyLeft = maskLogits(logits, mask);
    if (isComplete) {
      for (const [id, logit] of endings) {
        logits[id] = logit;
        isAnyLeft ||= logit !== -Infinity;
      }
    }
    if (isAnyLeft || isComplete) return isAnyLeft;
    const message = 'expected a token that goes on with the constrained text, got none that may be sampled';
    throw new AppError('invalid_request', message);
  }

  accept(tokenId: number): void {
    if (this.#stopTokenIds.includes(tokenId)) return;
    const isAccepted = this.#matcher.acceptToken(tokenId);
    invariant(isAccepted, `token ${tokenId} was left by the mask`);
    this.#barred = this.#guard.barredBehind(tokenId);
    this.isReady = this.#prepare();
  }

  /** The library's function is asynchronous in name only: it awaits what has been loaded long ago. */
  async #prepare(): Promise<void> {
    this.#mask = null;
    try {
      this.#mask = await this.#matcher.getNextTokenBitmask();
    } catch {
      // Told by `mask`, unless the choice has ended and nobody asks.
    }
  }

  free(): void {
    if (this.#isFreed) return;
    this.#isFreed = true;
    this.#matcher.dispose();
    this.#onFree();
  }
}
