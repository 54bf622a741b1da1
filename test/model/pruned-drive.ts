/** Drives one sequence under policies, without the engine. */
import { BytePool } from '../../src/kv/byte-pool.ts';
import { SequenceCache } from '../../src/kv/sequence-cache.ts';
import type { ActivePolicies, AliveTokens } from '../../src/policies/index.ts';
import { decodeStep } from '../../src/runtime/decode.ts';
import type { Model } from '../../src/runtime/model.ts';
import { PrefillPass } from '../../src/runtime/prefill.ts';
import type { RowRoom } from '../../src/runtime/pruning/pruned-lane.ts';
import { SequencePruning } from '../../src/runtime/pruning/sequence-pruning.ts';
import { soloStep } from '../../src/runtime/pruning/solo-decode.ts';
import { TILE_ROWS } from './drive.ts';

/** What a sequence alone in its pool has. */
export function roomIn(cache: SequenceCache): RowRoom {
  return {
    reserve: (layer, numRows) => cache.reserveMore(numRows, layer),
    reserveAux: (layer, numRows) => cache.reserveAux(layer, numRows),
  };
}

export class PrunedRun {
  readonly pruning: SequencePruning;
  readonly cache: SequenceCache;
  readonly pool: BytePool;
  readonly #model: Model;
  numComputed = 0;

  constructor(model: Model, policies: Partial<ActivePolicies>, maxEntries = 1024) {
    this.#model = model;
    this.pool = new BytePool(2 ** 30);
    const { hiddenSize } = model.architecture.config;
    this.cache = new SequenceCache(this.pool, model.kvShape, maxEntries, hiddenSize);
    const all = { tokens: null, kv: null, layers: null, ...policies };
    this.pruning = new SequencePruning(all, model, this.cache, 0);
  }

  /** The next tokens of the prompt, as one pass. @returns logits [vocabSize] of every row, or of the last one */
  async prefill(
    tokenIds: readonly number[],
    logits: 'all' | 'last' = 'last',
    tileRows = TILE_ROWS,
  ): Promise<Float32Array[]> {
    const rows: Float32Array[] = [];
    const request = {
      tokenIds: Int32Array.from(tokenIds),
      start: this.numComputed,
      cache: this.cache,
      logits,
      onLogits: (_row: number, values: Float32Array) => rows.push(values.slice()),
      pruning: this.pruning,
      ...roomIn(this.cache),
    };
    const pass = new PrefillPass(this.#model, [request], tileRows);
    while (await pass.step());
    this.numComputed += tokenIds.length;
    return rows;
  }

  /** @returns logits [vocabSize] */
  async decode(tokenId: number): Promise<Float32Array> {
    const position = this.numComputed++;
    const { pruning, cache } = this;
    if (pruning.decodeGroup === null)
      return (await soloStep(this.#model, { tokenId, position, pruning, ...roomIn(cache) }))!.slice();
    cache.reserveMore(1);
    const [logits] = await decodeStep(this.#model, [{ tokenId, position, cache, pruning }]);
    return logits!.slice();
  }

  /** Entries by layer and KV head. */
  get lengths(): number[][] {
    return this.pruning.pruned.all.map((heads) => heads.map((head) => head.length));
  }

  positions(layer: number, head: number): number[] {
    return [...this.pruning.pruned.heads(layer)[head]!.positions];
  }
}

export interface Selection {
  readonly layer: number;
  readonly numAlive: number;
  readonly kept: number[];
}

/** The same token policy, noting what it selects. */
export function recorded(policies: ActivePolicies): { policies: ActivePolicies; selections: Selection[] } {
  const { tokens } = policies;
  const selections: Selection[] = [];
  if (tokens === null) return { policies, selections };
  const select = (alive: AliveTokens, budget: number): Int32Array => {
    const indices = tokens.select(alive, budget);
    const kept = Array.from(indices, (i) => alive.positions[i]!);
    selections.push({ layer: alive.layer, numAlive: alive.positions.length, kept });
    return indices;
  };
  return { policies: { ...policies, tokens: { ...tokens, select } }, selections };
}
