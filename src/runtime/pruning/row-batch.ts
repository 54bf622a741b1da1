/** Rows of one sequence on their way through the layers: positions, hidden states, and what a layer projected for them. */
import { invariant } from '../../errors.ts';

export interface RowBatch {
  /** [rows], ascending. */
  readonly positions: Int32Array;
  /** [rows, hiddenSize] */
  hidden: Float32Array;
  /** [rows, (queryHeads + 2 kvHeads) * headDim] of the layer that the rows have entered; empty without one. */
  projected: Float32Array;
}

const EMPTY = new Float32Array(0);

function widthOf(data: Float32Array, numRows: number): number {
  return numRows === 0 ? 0 : data.length / numRows;
}

/** A copy of the rows at ascending indices, counted over all batches one behind the other. */
export function takeRows(batches: readonly RowBatch[], indices: Int32Array): RowBatch {
  const filled = batches.filter(({ positions }) => positions.length > 0);
  const positions = new Int32Array(indices.length);
  const rowsOf = (pick: (batch: RowBatch) => Float32Array): Float32Array => {
    const [first] = filled;
    const width = first === undefined ? 0 : widthOf(pick(first), first.positions.length);
    const rows = new Float32Array(indices.length * width);
    let at = 0;
    let begin = 0;
    for (const batch of filled) {
      const data = pick(batch);
      invariant(data.length === batch.positions.length * width, 'batches of one width');
      const end = begin + batch.positions.length;
      for (; at < indices.length && (indices[at] ?? 0) < end; at++) {
        const from = (indices[at] ?? 0) - begin;
        rows.set(data.subarray(from * width, (from + 1) * width), at * width);
        positions[at] = batch.positions[from] ?? 0;
      }
      begin = end;
    }
    return rows;
  };
  return {
    positions,
    hidden: rowsOf(({ hidden }) => hidden),
    projected: rowsOf(({ projected }) => projected),
  };
}

/** The rows of several batches, ascending by position. */
export function mergeRows(batches: readonly RowBatch[]): RowBatch {
  const filled = batches.filter(({ positions }) => positions.length > 0);
  const [only] = filled;
  if (filled.length === 1 && only !== undefined) return only;
  const joined = takeRows(filled, allRows(filled));
  const isSorted = joined.positions.every(
    (position, i) => i === 0 || position > (joined.positions[i - 1] ?? 0),
  );
  if (isSorted) return joined;
  const order = Array.from(joined.positions.keys());
  order.sort((a, b) => (joined.positions[a] ?? 0) - (joined.positions[b] ?? 0));
  return reorder(joined, order);
}

function allRows(batches: readonly RowBatch[]): Int32Array {
  const numRows = batches.reduce((sum, { positions }) => sum + positions.length, 0);
  return Int32Array.from({ length: numRows }, (_, i) => i);
}

function reorder({ positions, hidden, projected }: RowBatch, order: readonly number[]): RowBatch {
  const pick = (data: Float32Array): Float32Array => {
    const width = widthOf(data, positions.length);
    const rows = new Float32Array(data.length);
    order.forEach((from, to) => {
      rows.set(data.subarray(from * width, (from + 1) * width), to * width);
    });
    return rows;
  };
  return {
    positions: Int32Array.from(order, (row) => positions[row] ?? 0),
    hidden: pick(hidden),
    projected: pick(projected),
  };
}

/**
 * Views of the rows in tiles: the one that begins at row i has `tileRows(i)` rows, and the last exactly `lastRows` if
 * there are so many (0 = whatever is left).
 */
export function tilesOf(batch: RowBatch, tileRows: (begin: number) => number, lastRows = 0): RowBatch[] {
  const numRows = batch.positions.length;
  const [hiddenWidth, width] = [widthOf(batch.hidden, numRows), widthOf(batch.projected, numRows)];
  const cut = (begin: number, end: number): RowBatch => ({
    positions: batch.positions.subarray(begin, end),
    hidden: hiddenWidth === 0 ? EMPTY : batch.hidden.subarray(begin * hiddenWidth, end * hiddenWidth),
    projected: width === 0 ? EMPTY : batch.projected.subarray(begin * width, end * width),
  });
  const lastBegin = lastRows > 0 ? Math.max(0, numRows - lastRows) : numRows;
  const tiles: RowBatch[] = [];
  for (let begin = 0; begin < numRows;) {
    const end = begin >= lastBegin ? numRows : Math.min(lastBegin, begin + tileRows(begin));
    tiles.push(cut(begin, end));
    begin = end;
  }
  return tiles;
}

/** Rows that are not among the ascending indices. */
export function complement(indices: Int32Array, length: number): Int32Array {
  const isTaken = new Uint8Array(length);
  for (const index of indices) isTaken[index] = 1;
  return Int32Array.from({ length }, (_, i) => i).filter((i) => isTaken[i] === 0);
}
