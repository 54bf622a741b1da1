/** LazyLLM's auxiliary cache: hidden states of pruned tokens, at the layer where they stopped. */
import { invariant } from '../../errors.ts';

export class AuxCache {
  /** By layer, then by position: [hiddenSize] after that layer. */
  readonly #layers = new Map<number, Map<number, Float32Array>>();

  get bytes(): number {
    let bytes = 0;
    for (const rows of this.#layers.values()) for (const row of rows.values()) bytes += row.byteLength;
    return bytes;
  }

  /** Keeps a copy. */
  put(layer: number, position: number, hidden: Float32Array): void {
    let rows = this.#layers.get(layer);
    if (rows === undefined) this.#layers.set(layer, (rows = new Map<number, Float32Array>()));
    rows.set(position, hidden.slice());
  }

  has(layer: number, position: number): boolean {
    return this.#layers.get(layer)?.has(position) ?? false;
  }

  /** Takes a row out: its token is computed from there on, and never again. */
  take(layer: number, position: number): Float32Array {
    const rows = this.#layers.get(layer);
    const row = rows?.get(position);
    invariant(rows !== undefined && row !== undefined, `position ${position} stopped at layer ${layer}`);
    rows.delete(position);
    return row;
  }

  /** Rows are never changed, so that both may hold them. */
  copyFrom(other: AuxCache): void {
    for (const [layer, rows] of other.#layers) this.#layers.set(layer, new Map(rows));
  }
}
