/** How alike two texts are: the share of their characters that lies in matching blocks, as Python's difflib counts it. */

/** A block of `size` code points that both texts have, at `a` and `b`. */
interface Block {
  readonly a: number;
  readonly b: number;
  readonly size: number;
}

/** Part of two texts: [start, end) of each. */
interface Window {
  readonly a: readonly [number, number];
  readonly b: readonly [number, number];
}

/**
 * The longest block in a window; of equals the first in `left`, then the first in `right`. `runs` is scratch of
 * right.length + 1 numbers.
 */
function longestBlock(
  left: readonly string[],
  right: readonly string[],
  { a, b }: Window,
  runs: Int32Array,
): Block {
  let best: Block = { a: a[0], b: b[0], size: 0 };
  runs.fill(0, b[0], b[1] + 1);
  for (let i = a[0]; i < a[1]; i++) {
    // runs[j + 1] = common code points that end at left[i - 1] and right[j]; from behind, so that one row is enough.
    for (let j = b[1] - 1; j >= b[0]; j--) runs[j + 1] = left[i] === right[j] ? runs[j]! + 1 : 0;
    for (let j = b[0]; j < b[1]; j++) {
      const size = runs[j + 1]!;
      if (size > best.size) best = { a: i + 1 - size, b: j + 1 - size, size };
    }
  }
  return best;
}

/**
 * `2 * matches / (length of both)`, in [0, 1], over code points; two empty texts are alike. Equals
 * `difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()`, which depends on the order of the two.
 */
export function similarity(left: string, right: string): number {
  const [a, b] = [Array.from(left), Array.from(right)];
  if (a.length + b.length === 0) return 1;
  const runs = new Int32Array(b.length + 1);
  let numMatches = 0;
  const open: Window[] = [{ a: [0, a.length], b: [0, b.length] }];
  for (let window = open.pop(); window !== undefined; window = open.pop()) {
    const block = longestBlock(a, b, window, runs);
    if (block.size === 0) continue;
    numMatches += block.size;
    open.push({ a: [window.a[0], block.a], b: [window.b[0], block.b] });
    open.push({ a: [block.a + block.size, window.a[1]], b: [block.b + block.size, window.b[1]] });
  }
  return (2 * numMatches) / (a.length + b.length);
}
