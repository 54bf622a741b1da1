/** Token embeddings, read row by row from disk: a run takes hidden rows, so the table need not be held in memory. */
import { closeSync, createReadStream, openSync, readFileSync, readSync } from 'node:fs';
import type { ReadStream } from 'node:fs';
import { join } from 'node:path';
import { invariant } from '../errors.ts';
import { type Architecture, EMBEDDING } from './architecture.ts';
import { checkScales, type Precision } from './linear.ts';
import { dequantiseRow, quantiseRows } from './quantise.kernel.ts';
import type { Checkpoint } from './safetensors.ts';
import { WeightFile } from './weight-file.ts';

const ROWS_FILE = 'embedding.bin';
const SCALES_FILE = 'embedding-scales.bin';
export const EMBEDDING_FILES = [ROWS_FILE, SCALES_FILE] as const;
const ROWS_PER_WRITE = 8192;

/** Writes the table of a checkpoint: int8 rows with one scale each, or float32 rows. */
export function writeEmbedding(
  dir: string,
  checkpoint: Checkpoint,
  architecture: Architecture,
  precision: Precision,
): void {
  const { vocabSize, hiddenSize } = architecture.config;
  const rowsFile = new WeightFile(join(dir, ROWS_FILE), 1);
  const scalesFile = new WeightFile(join(dir, SCALES_FILE), 1);
  for (let first = 0; first < vocabSize; first += ROWS_PER_WRITE) {
    const count = Math.min(ROWS_PER_WRITE, vocabSize - first);
    const rows = checkpoint.readRows(EMBEDDING, first, count);
    const scales = new Float32Array(count).fill(1);
    if (precision === 'int8') {
      const quantised = new Int8Array(rows.length);
      quantiseRows(quantised, scales, rows, count, hiddenSize);
      checkScales(EMBEDDING, scales);
      rowsFile.append(quantised);
    } else rowsFile.append(rows);
    scalesFile.append(scales);
  }
  rowsFile.close();
  scalesFile.close();
}

/** Of a read that brings the table into the system's cache. */
const WARM_BYTES = 1 << 20;

/**
 * Reads a whole file in the background and keeps nothing of it. Row by row, a long prompt's first reads of a table that
 * the system has not cached would take seconds.
 */
function warm(file: string): ReadStream {
  const stream = createReadStream(file, { highWaterMark: WARM_BYTES });
  // Whoever needs the file says what is wrong with it.
  return stream.on('error', () => undefined).resume();
}

export class EmbeddingTable {
  readonly #fd: number;
  readonly #warming: ReadStream;
  /** [vocabSize] factor of each int8 row. */
  readonly #scales: Float32Array;
  readonly #hiddenSize: number;
  readonly #vocabSize: number;
  readonly #precision: Precision;

  constructor(dir: string, config: { hiddenSize: number; vocabSize: number }, precision: Precision) {
    this.#fd = openSync(join(dir, ROWS_FILE), 'r');
    this.#warming = warm(join(dir, ROWS_FILE));
    this.#scales = new Float32Array(new Uint8Array(readFileSync(join(dir, SCALES_FILE))).buffer);
    this.#hiddenSize = config.hiddenSize;
    this.#vocabSize = config.vocabSize;
    this.#precision = precision;
  }

  /** Hidden rows of tokens: [tokenIds.length, hiddenSize]. */
  rows(tokenIds: ArrayLike<number>): Float32Array {
    const width = this.#hiddenSize;
    const hidden = new Float32Array(tokenIds.length * width);
    for (let i = 0; i < tokenIds.length; i++) {
      const id = tokenIds[i] ?? -1;
      invariant(
        id >= 0 && id < this.#vocabSize,
        `token id ${id} outside the vocabulary of ${this.#vocabSize}`,
      );
      this.#readRow(hidden, i * width, id);
    }
    return hidden;
  }

  #readRow(target: Float32Array, offset: number, id: number): void {
    const width = this.#hiddenSize;
    if (this.#precision === 'fp32') {
      readSync(this.#fd, target.subarray(offset, offset + width), 0, 4 * width, 4 * width * id);
      return;
    }
    const quantised = new Int8Array(width);
    readSync(this.#fd, quantised, 0, width, width * id);
    dequantiseRow(target, offset, quantised, this.#scales[id] ?? 0);
  }

  close(): void {
    this.#warming.destroy();
    closeSync(this.#fd);
  }
}
