/** What each row of a tile sees of heads whose entries are not simply all that came before: views and masks. */
import type { TileHeadView } from '../../graph/session.ts';
import { lowerBound, type PrunedHead } from '../../kv/pruned-cache.ts';
import { causalMask, HIDDEN } from '../attention-feed.ts';
import { joined } from './joined.ts';

/** A streaming head's rule: a row at position i sees the entry at j iff j < sink or i - j <= recent. */
export interface StreamingRule {
  readonly sink: number;
  readonly recent: number;
}

/** What is visible beside causality. */
export interface Visibility {
  readonly streaming: StreamingRule | null;
  /** Of models with a sliding window: the last so many tokens, the row's own among them. */
  readonly window: number | null;
  /** By position: 1 = may be seen. */
  readonly selected: Uint8Array | null;
}

export interface FedHead {
  readonly view: TileHeadView;
  /** Positions of the entries in the view, in its order. */
  readonly positions: Int32Array;
  /** Slot of the first entry where the view is contiguous, else null. */
  readonly firstSlot: number | null;
}

function sees(row: number, entry: number, { streaming, window, selected }: Visibility): boolean {
  if (entry > row || (window !== null && row - entry >= window)) return false;
  if (selected !== null && selected[entry] !== 1) return false;
  return streaming === null || entry < streaming.sink || row - entry <= streaming.recent;
}

/** Index of the first of these ascending positions that a row sees through a sliding window; null = there is none. */
export function firstInWindow(positions: Int32Array, row: number, window: number | null | undefined): number {
  return window == null ? 0 : lowerBound(positions, row - window + 1);
}

function isAscending(positions: Int32Array): boolean {
  return positions.every((position, i) => i === 0 || position > (positions[i - 1] ?? 0));
}

/** As {@link buildMask} for ascending entries, if nothing was selected: what a row does not see are a few runs of them. */
function buildWindowMask(
  rows: Int32Array,
  entries: Int32Array,
  { streaming, window }: Visibility,
): Float32Array {
  const width = entries.length;
  const mask = new Float32Array(rows.length * width);
  const numSinks = streaming === null ? 0 : lowerBound(entries, streaming.sink);
  rows.forEach((row, i) => {
    const hide = (from: number, to: number): void => {
      if (from < to) mask.fill(HIDDEN, i * width + from, i * width + to);
    };
    hide(0, firstInWindow(entries, row, window));
    if (streaming !== null) hide(numSinks, lowerBound(entries, row - streaming.recent));
    hide(lowerBound(entries, row + 1), width);
  });
  return mask;
}

/** [rows, entries] */
function buildMask(rows: Int32Array, entries: Int32Array, visibility: Visibility): Float32Array {
  if (visibility.selected === null && isAscending(entries)) return buildWindowMask(rows, entries, visibility);
  const mask = new Float32Array(rows.length * entries.length);
  let at = 0;
  for (const row of rows) {
    for (const entry of entries) {
      if (!sees(row, entry, visibility)) mask[at] = HIDDEN;
      at++;
    }
  }
  return mask;
}

interface Masked {
  readonly rows: Int32Array;
  readonly entries: Int32Array;
  readonly visibility: Visibility;
  readonly mask: Float32Array;
}

/** Whether a is b with every number moved on, but for those below `fixed`, which are the same in both. */
function isShifted(a: Int32Array, b: Int32Array, shift: number, fixed = 0): boolean {
  if (a.length !== b.length) return false;
  return a.every((value, i) => {
    const other = b[i] ?? 0;
    return value < fixed || other < fixed ? value === other : value === other + shift;
  });
}

function fits(known: Masked, rows: Int32Array, entries: Int32Array, visibility: Visibility): boolean {
  const { streaming, window, selected } = visibility;
  if (known.visibility.streaming !== streaming || known.visibility.window !== window) return false;
  if (known.visibility.selected !== selected) return false;
  const [first = 0, knownFirst = 0] = [rows[0], known.rows[0]];
  const shift = first - knownFirst;
  const sink = streaming?.sink ?? 0;
  // Sinks stay where they are, and every row behind them sees them, unless a window ends before them.
  const mayShift =
    selected === null && Math.min(first, knownFirst) >= sink && (window === null || streaming === null);
  if (shift !== 0 && !mayShift) return false;
  return isShifted(rows, known.rows, shift) && isShifted(entries, known.entries, shift, sink);
}

/** The last mask that was built: it nearly always serves the other heads, the other layers and the next tile, too. */
let last: Masked | null = null;

export function maskOf(rows: Int32Array, entries: Int32Array, visibility: Visibility): Float32Array {
  if (last === null || !fits(last, rows, entries, visibility)) {
    const mask = buildMask(rows, entries, visibility);
    last = { rows: rows.slice(), entries: entries.slice(), visibility, mask };
  }
  return last.mask;
}

/** Everything from slot `from` on; the mask is for the last of them. */
function contiguous(head: PrunedHead, from: number, end: number, mask: Float32Array): FedHead {
  const { cache } = head;
  const view = { keys: cache.keys(from, end), values: cache.values(from, end), mask };
  return { view, positions: head.positions.subarray(from, end), firstSlot: from };
}

/** Copies of the sinks and of the window's entries. */
function sinksAndWindow(
  head: PrunedHead,
  rows: Int32Array,
  visibility: Visibility,
  numSinks: number,
  from: number,
  end: number,
): FedHead {
  const { cache, positions } = head;
  const seen = joined(positions.subarray(0, numSinks), positions.subarray(from, end));
  const view = {
    keys: joined(cache.keys(0, numSinks), cache.keys(from, end)),
    values: joined(cache.values(0, numSinks), cache.values(from, end)),
    mask: maskOf(rows, seen, visibility),
  };
  return { view, positions: seen, firstSlot: null };
}

/** For rows at ascending positions, whose own keys and values are in the head already. */
export function feedRows(head: PrunedHead, rows: Int32Array, visibility: Visibility): FedHead {
  const { positions } = head;
  const { streaming, window, selected } = visibility;
  if (!head.isAscending || selected !== null)
    return contiguous(head, 0, head.length, maskOf(rows, positions, visibility));
  const first = rows[0] ?? 0;
  const end = lowerBound(positions, (rows.at(-1) ?? 0) + 1);
  const oldest = Math.max(
    window === null ? 0 : first - window + 1,
    streaming === null ? 0 : first - streaming.recent,
  );
  const from = lowerBound(positions, oldest);
  if (streaming !== null && window === null) {
    const numSinks = lowerBound(positions, streaming.sink);
    if (from > numSinks) return sinksAndWindow(head, rows, visibility, numSinks, from, end);
    return contiguous(head, 0, end, maskOf(rows, positions.subarray(0, end), visibility));
  }
  if (streaming !== null || window !== null) {
    const start = streaming === null ? from : 0;
    return contiguous(head, start, end, maskOf(rows, positions.subarray(start, end), visibility));
  }
  const tailFrom = lowerBound(positions, first);
  const tail = positions.subarray(tailFrom, end);
  const isOwn = isShifted(tail, rows, 0);
  return contiguous(head, 0, end, isOwn ? causalMask(rows.length) : maskOf(rows, tail, visibility));
}
