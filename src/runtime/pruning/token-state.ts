/** What a token policy has decided and seen for one sequence: importance, silent heads, counts. */
import type { TokenPolicy } from '../../policies/index.ts';
import type { Model } from '../model.ts';
import type { TokensReport } from '../protocol.ts';

type Stage = TokensReport['stages'][number];

export class TokenState {
  readonly policy: TokenPolicy;
  readonly #model: Model;
  /** By position. */
  #importance: Float32Array;
  /** [query heads of the widest layer], L1 of their outputs over all layers and rows so far. */
  #magnitudes: Float32Array;
  /** [the same] 0 = the head falls silent in layers from `#silentFrom` on. */
  #scales: { readonly fromLayer: number; readonly scale: Float32Array }[] = [];
  readonly #stages: Stage[] = [];
  #rowsComputed = 0;
  #seen = 0;
  #revived = 0;

  constructor(policy: TokenPolicy, model: Model, start: number) {
    this.policy = policy;
    this.#model = model;
    this.#importance = new Float32Array(start + 1024);
    const queryHeads = model.architecture.layers.map(({ attention }) => attention?.queryHeads ?? 0);
    this.#magnitudes = new Float32Array(Math.max(0, ...queryHeads));
  }

  clone(): TokenState {
    const copy = new TokenState(this.policy, this.#model, 0);
    copy.#importance = this.#importance.slice();
    copy.#magnitudes = this.#magnitudes.slice();
    copy.#scales = [...this.#scales];
    copy.#stages.push(...this.#stages);
    copy.#rowsComputed = this.#rowsComputed;
    copy.#seen = this.#seen;
    copy.#revived = this.#revived;
    return copy;
  }

  /** Makes room for positions below `numTokens`. */
  extend(numTokens: number): void {
    if (numTokens <= this.#importance.length) return;
    const importance = new Float32Array(numTokens + (numTokens >> 2));
    importance.set(this.#importance);
    this.#importance = importance;
  }

  addImportance(position: number, value: number): void {
    this.#importance[position] = (this.#importance[position] ?? 0) + value;
  }

  forget(positions: Int32Array): void {
    for (const position of positions) this.#importance[position] = 0;
  }

  importanceOf(positions: Int32Array): Float32Array {
    return Float32Array.from(positions, (position) => this.#importance[position] ?? 0);
  }

  addMagnitudes(magnitudes: Float32Array): void {
    magnitudes.forEach((value, head) => {
      this.#magnitudes[head] = (this.#magnitudes[head] ?? 0) + value;
    });
  }

  get hasSilentHeads(): boolean {
    return this.#scales.length > 0;
  }

  /** After layer `layer`: decides which heads deeper layers keep. A silent head's magnitude cannot grow any more. */
  selectHeads(layer: number): void {
    const { heads } = this.policy;
    const budget = heads?.budget(layer, this.#magnitudes.length) ?? null;
    if (heads === undefined || budget === null || budget >= this.#magnitudes.length) return;
    const previous = this.#scales.at(-1)?.scale;
    const candidates = this.#magnitudes.map((value, head) => (previous?.[head] === 0 ? -1 : value));
    const scale = new Float32Array(this.#magnitudes.length);
    for (const head of heads.select(candidates, budget)) scale[head] = 1;
    this.#scales.push({ fromLayer: layer + 1, scale });
  }

  headScale(layer: number): Float32Array | null {
    const queryHeads = this.#model.architecture.layers[layer]?.attention?.queryHeads ?? 0;
    return (
      this.#scales.findLast(({ fromLayer }) => fromLayer <= layer)?.scale.subarray(0, queryHeads) ?? null
    );
  }

  noteStage(stage: Stage): void {
    this.#stages.push(stage);
  }

  noteSeen(numTokens: number): void {
    this.#seen += numTokens;
  }

  noteRows(numRows: number): void {
    this.#rowsComputed += numRows;
  }

  noteRevived(numTokens: number): void {
    this.#revived += numTokens;
  }

  /** `auxBytes` = what the auxiliary cache holds. */
  report(auxBytes: number): TokensReport {
    return {
      seen: this.#seen,
      stages: [...this.#stages],
      rowsComputed: this.#rowsComputed,
      layers: this.#model.numLayers,
      revived: this.#revived,
      auxBytes,
    };
  }
}
