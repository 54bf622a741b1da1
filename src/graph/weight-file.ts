/** The external weights of a graph: tensors appended to one file, each aligned for memory mapping. */
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import type { ExternalData } from './onnx.ts';

const PAGE_BYTES = 4096;

export class WeightFile {
  readonly #fd: number;
  readonly #location: string;
  readonly #alignment: number;
  #bytes = 0;

  /** @param alignment bytes; 1 = tensors follow each other without gaps */
  constructor(path: string, alignment = PAGE_BYTES) {
    this.#fd = openSync(path, 'wx');
    this.#location = basename(path);
    this.#alignment = alignment;
  }

  append(data: Float32Array | Int8Array): ExternalData {
    const offset = Math.ceil(this.#bytes / this.#alignment) * this.#alignment;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let done = 0; done < bytes.length;) {
      done += writeSync(this.#fd, bytes, done, Math.min(bytes.length - done, 1 << 28), offset + done);
    }
    this.#bytes = offset + bytes.length;
    return { location: this.#location, offset, length: bytes.length };
  }

  close(): void {
    fsyncSync(this.#fd);
    closeSync(this.#fd);
  }
}
