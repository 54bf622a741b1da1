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

/** A copy of the rows at ascending indices. */
export function takeRows({ positions, hidden, projected }: RowBatch, indices: Int32Array): RowBatch {
  const pick = (data: Float32Array): Float32Array => {
    const width = widthOf(data, positions.length);
    const rows = new Float32Array(indices.length * width);
    indices.forEach((from, to) => {
      rows.set(data.subarray(from * width, (from + 1) * width), to * width);
    });
    return rows;
  };
  return {
    positions: Int32Array.from(indices, (index) => positions[index] ?? 0),
    hidden: pick(hidden),
    projected: pick(projected),
  };
}

/** The rows of several batches, ascending by position. */
export function mergeRows(batches: readonly RowBatch[]): RowBatch {
  const filled = batches.filter(({ positions }) => positions.length > 0);
  const [only] = filled;
  if (filled.length === 1 && only !== undefined) return only;
  const joined = concatRows(filled);
  const isSorted = joined.positions.every(
    (position, i) => i === 0 || position > (joined.positions[i - 1] ?? 0),
  );
  if (isSorted) return joined;
  const order = Array.from(joined.positions.keys());
  order.sort((a, b) => (joined.positions[a] ?? 0) - (joined.positions[b] ?? 0));
  return takeRows(joined, Int32Array.from(order));
}

function concatRows(batches: readonly RowBatch[]): RowBatch {
  const numRows = batches.reduce((sum, { positions }) => sum + positions.length, 0);
  const join = (pick: (batch: RowBatch) => Float32Array): Float32Array => {
    const first = batches[0];
    const width = first === undefined ? 0 : widthOf(pick(first), first.positions.length);
    const rows = new Float32Array(numRows * width);
    let at = 0;
    for (const batch of batches) {
      const data = pick(batch);
      invariant(data.length === batch.positions.length * width, 'batches of one width');
      rows.set(data, at);
      at += data.length;
    }
    return rows;
  };
  const positions = new Int32Array(numRows);
  let at = 0;
  for (const batch of batches) {
    positions.set(batch.positions, at);
    at += batch.positions.length;
  }
  return { positions, hidden: join(({ hidden }) => hidden), projected: join(({ projected }) => projected) };
}

/** Views of `tileRows` rows each; the last tile has exactly `lastRows` if there are so many (0 = whatever is left). */
export function tilesOf(batch: RowBatch, tileRows: number, lastRows = 0): RowBatch[] {
  const numRows = batch.positions.length;
  const before = lastRows > 0 ? Math.max(0, numRows - lastRows) : numRows;
  const ends = Array.from({ length: Math.ceil(before / tileRows) }, (_, i) =>
    Math.min(before, (i + 1) * tileRows),
  );
  for (let end = before; end < numRows; ends.push(end))
    end = Math.min(numRows, end + Math.max(tileRows, lastRows));
  const [hiddenWidth, width] = [widthOf(batch.hidden, numRows), widthOf(batch.projected, numRows)];
  return ends.map((end, i) => {
    const begin = ends[i - 1] ?? 0;
    return {
      positions: batch.positions.subarray(begin, end),
      hidden: hiddenWidth === 0 ? EMPTY : batch.hidden.subarray(begin * hiddenWidth, end * hiddenWidth),
      projected: width === 0 ? EMPTY : batch.projected.subarray(begin * width, end * width),
    };
  });
}

/** Rows that are not among the ascending indices. */
export function complement(indices: Int32Array, length: number): Int32Array {
  const isTaken = new Uint8Array(length);
  for (const index of indices) isTaken[index] = 1;
  return Int32Array.from({ length }, (_, i) => i).filter((i) => isTaken[i] === 0);
}
