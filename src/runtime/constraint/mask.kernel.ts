/** Applies a bit mask over the vocabulary to logits. */

/** Bit of a token: 1 = it may come next. `mask` has 32 tokens a word. */
export function isSet(mask: Int32Array, id: number): boolean {
  return ((mask[id >> 5]! >>> (id & 31)) & 1) === 1;
}

/** Sets `logits` [vocabSize] of tokens that may not come next to -Infinity. @returns whether any other is left */
export function maskLogits(logits: Float32Array, mask: Int32Array): boolean {
  let isAnyLeft = false;
  for (let word = 0; word * 32 < logits.length; word++) {
    const bits = mask[word]!;
    const begin = word * 32;
    const end = Math.min(begin + 32, logits.length);
    if (bits === 0) {
      logits.fill(-Infinity, begin, end);
      continue;
    }
    for (let id = begin; id < end; id++) {
      if (((bits >>> (id - begin)) & 1) === 0) logits[id] = -Infinity;
      else if (logits[id]! !== -Infinity) isAnyLeft = true;
    }
  }
  return isAnyLeft;
}
