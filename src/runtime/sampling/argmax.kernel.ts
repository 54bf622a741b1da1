/** The most probable token: greedy decoding, and the check that logits can be used at all. */
import { AppError } from '../../errors.ts';

/**
 * Index of the largest of `logits` [vocabSize]; the lowest index among equals.
 * @throws AppError `internal` when the logits hold NaN or no finite maximum (every token masked, or overflow).
 */
export function argmax(logits: Float32Array): number {
  let best = 0;
  let max = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i]!;
    // One comparison finds both a new maximum and NaN, which compares false with everything.
    if (!(logit <= max)) {
      if (Number.isNaN(logit))
        throw new AppError('internal', `expected logits that are numbers, got NaN for token ${i}`);
      max = logit;
      best = i;
    }
  }
  if (max === -Infinity)
    throw new AppError(
      'internal',
      'expected at least one token to choose from, got logits that are all -Infinity',
    );
  if (max === Infinity)
    throw new AppError('internal', `expected finite logits, got Infinity for token ${best}`);
  return best;
}
