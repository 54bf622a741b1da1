/** The live pruning of one sequence: its policies, which entries its cache holds, what was observed, what to report. */
import type { HeadView } from '../../graph/session.ts';
import type { AuxCache } from '../../kv/aux-cache.ts';
import { entryBytes } from '../../kv/head-cache.ts';
import { PrunedCache, type PrunedHead } from '../../kv/pruned-cache.ts';
import type { SequenceCache } from '../../kv/sequence-cache.ts';
import type { ActivePolicies, EvictingPolicy, SplitPolicy } from '../../policies/index.ts';
import { causalMask } from '../attention-feed.ts';
import type { Model } from '../model.ts';
import type { PruningReport } from '../protocol.ts';
import { BlockReader } from './block-reader.ts';
import { evictLayer, evictModel } from './eviction.ts';
import { QueryStatistics } from './query-statistics.ts';
import { type FedHead, firstInWindow, type Visibility } from './row-feed.ts';
import { TokenState } from './token-state.ts';

type Phase = 'prompt' | 'decode';

/** What a run's signal counts for. */
export interface Observation {
  /** Of cache entries. */
  readonly scores: boolean;
  /** Of tokens and query heads. */
  readonly importance: boolean;
}

/** Scores of every entry, for policies whose observation adds up over rows. */
function keepsScores({ kv }: ActivePolicies): boolean {
  return kv?.kind === 'evict' && kv.observes !== 'none';
}

export class SequencePruning {
  readonly policies: ActivePolicies;
  readonly pruned: PrunedCache;
  readonly tokens: TokenState | null;
  readonly queries: QueryStatistics | null;
  readonly #model: Model;
  readonly #reader: BlockReader | null;
  readonly #visibilities: readonly (readonly Visibility[])[];
  /** Decoded tokens since the last eviction. */
  #numDecoded = 0;
  #peakEntryBytes = 0;

  /** `cache` is empty or holds an unpruned beginning of `start` tokens. `source` = what to copy, over its cache's copy. */
  constructor(
    policies: ActivePolicies,
    model: Model,
    cache: SequenceCache,
    start: number,
    source: SequencePruning | null = null,
  ) {
    const { tokens, kv } = policies;
    this.policies = policies;
    this.#model = model;
    this.#visibilities = source === null ? visibilities(policies, model) : source.#visibilities;
    this.pruned = source?.pruned.clone(cache) ?? PrunedCache.over(cache, keepsScores(policies));
    this.tokens = tokens === null ? null : (source?.tokens?.clone() ?? new TokenState(tokens, model, start));
    this.#reader =
      kv?.kind === 'read'
        ? source === null
          ? new BlockReader(kv)
          : (source.#reader?.clone() ?? null)
        : null;
    const needsQueries = kv?.kind === 'evict' && kv.needsQueries;
    this.queries = needsQueries ? (source?.queries?.clone() ?? new QueryStatistics(model, kv.sink)) : null;
    if (source !== null) {
      this.#numDecoded = source.#numDecoded;
      this.#peakEntryBytes = source.#peakEntryBytes;
    } else if (kv?.kind === 'split' && kv.prefill === 'streaming') {
      for (let layer = 0; layer < model.numLayers; layer++) this.#trim(layer, kv, start);
    }
  }

  /** The same over a copy of the cache: nothing is shared. */
  clone(cache: SequenceCache): SequencePruning {
    return new SequencePruning(this.policies, this.#model, cache, 0, this);
  }

  /** Hidden states of the tokens that left at a stage. */
  get aux(): AuxCache {
    return this.pruned.cache.aux;
  }

  /** Sequences of the same group may share decode runs; null = this one needs runs of its own. */
  get decodeGroup(): string | null {
    const { tokens, layers } = this.policies;
    if (tokens?.revives === true || this.tokens?.hasSilentHeads === true) return null;
    if (layers === null) return '';
    if (layers.headScale.some((scale) => scale !== null)) return null;
    return [...layers.attention, ...layers.mlp].map(Number).join('');
  }

  /** What rows of a tile may see of a head beside causality; `selected` as in {@link Visibility}. */
  visibility(layer: number, head: number, phase: Phase, selected: Uint8Array | null = null): Visibility {
    const own = this.#visibilities[layer]?.[head] ?? { streaming: null, window: null, selected: null };
    const { kv } = this.policies;
    const isExact = phase === 'prompt' && kv?.kind === 'split' && kv.prefill === 'exact';
    if (selected === null && !isExact) return own;
    return { ...own, streaming: isExact ? null : own.streaming, selected };
  }

  /** [queryHeads] factor on each query head of a layer; null = none. */
  headScale(layer: number): Float32Array | null {
    const fixed = this.policies.layers?.headScale[layer];
    if (fixed != null) return Float32Array.from(fixed);
    return this.tokens?.headScale(layer) ?? null;
  }

  /** Appends a run's projected rows to a layer's heads; room has been reserved. */
  append(layer: number, projected: Float32Array, positions: Int32Array): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null || projected.length === 0) return;
    const { queryHeads, kvHeads, headDim } = shape;
    const width = projected.length / positions.length;
    this.pruned.heads(layer).forEach((head, j) => {
      const [key, value] = [(queryHeads + j) * headDim, (queryHeads + kvHeads + j) * headDim];
      head.appendColumns(projected, width, key, value, positions);
    });
    this.queries?.add(layer, projected, positions);
  }

  /** Adds the resident bytes of this sequence to those of each kind. */
  addBytes(kinds: { retrieval: number; streaming: number; pruned: number }): void {
    const { kv } = this.policies;
    kinds.pruned += this.aux.bytes;
    this.pruned.all.forEach((heads, layer) => {
      heads.forEach(({ cache }, j) => {
        const isStreaming = kv?.kind === 'split' && kv.streaming[layer]?.[j] === true;
        kinds[kv?.kind !== 'split' ? 'pruned' : isStreaming ? 'streaming' : 'retrieval'] += cache.bytes;
      });
    });
  }

  notePeak(): void {
    this.#peakEntryBytes = Math.max(this.#peakEntryBytes, this.pruned.cache.entryBytes);
  }

  /** Adds up a run's signal: sums over its rows of what each query head gave to each fed entry, and head magnitudes. */
  observe(layer: number, fed: readonly FedHead[], signal: Float32Array, into: Observation): void {
    const shape = this.#model.architecture.layers[layer]?.attention;
    if (shape == null) return;
    const group = shape.queryHeads / shape.kvHeads;
    let at = 0;
    fed.forEach(({ positions, firstSlot }, j) => {
      const { scores } = this.pruned.heads(layer)[j] ?? { scores: new Float32Array(0) };
      for (let query = 0; query < group; query++) {
        for (let i = 0; i < positions.length; i++) {
          const value = signal[at++] ?? 0;
          if (into.scores && firstSlot !== null) {
            const slot = firstSlot + i;
            scores[slot] = (scores[slot] ?? 0) + value / group;
          }
          if (into.importance) this.tokens?.addImportance(positions[i] ?? 0, value / shape.queryHeads);
        }
      }
    });
    if (into.importance) this.tokens?.addMagnitudes(signal.subarray(at));
  }

  /** All rows of the prompt have been through a layer's attention: evicts what the policy does not keep. */
  layerDone(layer: number, nextPosition: number): void {
    const { kv } = this.policies;
    this.notePeak();
    if (kv?.kind === 'split') this.#trim(layer, kv, nextPosition);
    if (kv?.kind === 'evict' && kv.allot === undefined) evictLayer(this.#model, this, kv, layer);
  }

  /** All layers have: evicts where the heads of all layers share one budget. */
  promptDone(): void {
    const { kv } = this.policies;
    if (kv?.kind !== 'evict') return;
    if (kv.allot !== undefined) evictModel(this.#model, this, kv);
    this.#resetScores(kv);
  }

  /** What one decode row reads of a layer; `projected` = its own query, key and value. */
  decodeViews(layer: number, projected: Float32Array, scratch: number): HeadView[] {
    const { window, attention } = this.#model.architecture.layers[layer] ?? {};
    return this.pruned.heads(layer).map((head, j) => {
      const { cache, positions } = head;
      const from = firstInWindow(positions, positions.at(-1) ?? 0, window);
      if (this.#reader === null || attention == null)
        return { keys: cache.keys(from), values: cache.values(from) };
      return this.#reader.view({ layer, head: j, from, entries: cache, attention, projected, scratch });
    });
  }

  /** Whether each decode row reads blocks of its own choice. */
  get readsInBlocks(): boolean {
    return this.#reader !== null;
  }

  /** What {@link decodeViews} gives, for a decode row in a run of its own. */
  readFed(layer: number, projected: Float32Array): FedHead[] {
    return this.decodeViews(layer, projected, 0).map((view) => ({
      view: { ...view, mask: causalMask(1) },
      positions: new Int32Array(0),
      firstSlot: null,
    }));
  }

  /** Whether the next decode run of a layer should report its attention. */
  get observesDecode(): boolean {
    const { kv } = this.policies;
    if (kv?.kind !== 'evict' || kv.interval === null) return false;
    if (kv.observes === 'last') return this.#numDecoded + 1 >= kv.interval;
    return kv.observes === 'all' || kv.observes === 'window';
  }

  /** The views of a decode row as fed heads, for {@link observe}. */
  decodeFed(layer: number, views: readonly HeadView[]): FedHead[] {
    return this.pruned.heads(layer).map((head, j): FedHead => {
      const length = (views[j]?.keys.length ?? 0) / head.cache.headDim;
      const firstSlot = head.length - length;
      const view = { keys: NONE, values: NONE, mask: NONE };
      return { view, positions: head.positions.subarray(firstSlot), firstSlot };
    });
  }

  /** A decode row at `position` has been through a layer's attention. */
  decodeLayerDone(layer: number, position: number): void {
    const { kv } = this.policies;
    if (kv?.kind === 'split') this.#trim(layer, kv, position + 1);
  }

  /** A decode row has been through all layers. */
  decodeDone(): void {
    const { kv } = this.policies;
    this.notePeak();
    if (kv?.kind !== 'evict' || kv.interval === null || ++this.#numDecoded < kv.interval) return;
    this.#numDecoded = 0;
    if (kv.observes === 'repeated') return;
    for (let layer = 0; layer < this.#model.numLayers; layer++) evictLayer(this.#model, this, kv, layer);
    this.#resetScores(kv);
  }

  /** `numTokens` = tokens whose entries an unpruned cache would hold. */
  report(numTokens: number): PruningReport {
    const { kv, layers } = this.policies;
    const { cache } = this.pruned;
    const { kvShape } = this.#model;
    const tokenBytes = kvShape.reduce((sum, { kvHeads, headDim }) => sum + kvHeads * entryBytes(headDim), 0);
    const numHeads = kvShape.reduce((sum, { kvHeads }) => sum + kvHeads, 0);
    const streaming = kv?.kind === 'split' ? kv.streaming.flat().filter(Boolean).length : null;
    this.notePeak();
    return {
      tokens: this.tokens?.report(this.aux.rowBytes) ?? null,
      kv:
        kv === null
          ? null
          : {
              bytes: cache.entryBytes,
              peakBytes: this.#peakEntryBytes,
              denseBytes: numTokens * tokenBytes,
              entriesKept: cache.numEntries,
              entriesSeen: numTokens * numHeads,
              retrievalHeads: streaming === null ? null : numHeads - streaming,
              streamingHeads: streaming,
            },
      layers:
        layers === null
          ? null
          : {
              droppedAttention: layers.attention.filter((runs) => !runs).length,
              droppedMlp: layers.mlp.filter((runs) => !runs).length,
              maskedHeads: layers.headScale.flatMap((scale) => scale ?? []).filter((factor) => factor === 0)
                .length,
            },
    };
  }

  /** What was observed counts until the next eviction, but for policies that add up for ever. */
  #resetScores({ observes }: EvictingPolicy): void {
    if (observes === 'all') return;
    for (const heads of this.pruned.all) for (const head of heads) head.resetScores();
  }

  /** Cuts the streaming heads of a layer to sinks and the window before the token at `nextPosition`. */
  #trim(layer: number, { streaming, sink, recent }: SplitPolicy, nextPosition: number): void {
    this.pruned.heads(layer).forEach((head, j) => {
      if (streaming[layer]?.[j] === true) keepWindow(head, sink, nextPosition - recent);
    });
  }
}

const NONE = new Float32Array(0);

function keepWindow(head: PrunedHead, sink: number, oldest: number): void {
  const { positions } = head;
  const kept = new Int32Array(positions.length);
  let numKept = 0;
  let outside = 0;
  positions.forEach((position, slot) => {
    if (position < sink || position >= oldest) kept[numKept++] = slot;
    else outside = slot;
  });
  // Decoding slides the window by one.
  if (numKept === positions.length - 1) head.drop(outside);
  else if (numKept < positions.length) head.keep(kept.subarray(0, numKept));
}

function visibilities({ kv }: ActivePolicies, model: Model): Visibility[][] {
  // One rule for all heads: masks are known again by it.
  const rule = kv?.kind === 'split' ? { sink: kv.sink, recent: kv.recent } : null;
  return model.architecture.layers.map(({ attention, window }, layer) =>
    Array.from({ length: attention?.kvHeads ?? 0 }, (_, head): Visibility => {
      const streams = kv?.kind === 'split' && kv.streaming[layer]?.[head] === true;
      return {
        streaming: streams ? rule : null,
        window: window ?? null,
        selected: null,
      };
    }),
  );
}
