/** Turns [rows, columns] weights into the transposed layout that matrix products want, as float32 or int8. */

/** Columns of a block whose rows stay in the cache while it is transposed. */
const BLOCK = 64;

/** Below the smallest normal float32 a scale has too few digits to keep |q| <= 127. */
const SMALLEST_SCALE = 2 ** -126;

/** Writes `source` [numRows, columns] as columns firstRow.. of `target` [columns, totalRows]. */
export function transposeInto<T extends Float32Array | Int8Array>(
  target: T,
  source: T,
  firstRow: number,
  numRows: number,
  columns: number,
  totalRows: number,
): void {
  for (let block = 0; block < columns; block += BLOCK) {
    const blockEnd = Math.min(block + BLOCK, columns);
    for (let row = 0; row < numRows; row++) {
      for (let column = block; column < blockEnd; column++) {
        target[column * totalRows + firstRow + row] = source[row * columns + column]!;
      }
    }
  }
}

/**
 * Symmetric int8 with one scale per row: w ~ q * scale, |q| <= 127.
 * @param quantised [numRows, columns], written
 * @param scales [numRows], written; 1 for a row of zeros, not finite for a row that holds such a value
 */
export function quantiseRows(
  quantised: Int8Array,
  scales: Float32Array,
  source: Float32Array,
  numRows: number,
  columns: number,
): void {
  for (let row = 0; row < numRows; row++) {
    const from = row * columns;
    let largest = 0;
    for (let i = from; i < from + columns; i++) {
      const magnitude = Math.abs(source[i]!);
      if (magnitude > largest || Number.isNaN(magnitude)) largest = magnitude;
    }
    const scale = largest === 0 ? 1 : Math.max(Math.fround(largest / 127), SMALLEST_SCALE);
    scales[row] = scale;
    for (let i = from; i < from + columns; i++) quantised[i] = Math.round(source[i]! / scale);
  }
}

/** target[row] = quantised[row] * scale, for one row of an int8 table. */
export function dequantiseRow(
  target: Float32Array,
  offset: number,
  quantised: Int8Array,
  scale: number,
): void {
  for (let i = 0; i < quantised.length; i++) target[offset + i] = quantised[i]! * scale;
}
