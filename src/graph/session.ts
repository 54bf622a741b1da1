/** Runs a compiled graph. The only file that knows onnxruntime. */
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { AppError, errorMessage, invariant } from '../errors.ts';
import type { AttentionShape } from './architecture.ts';
import { cacheInputs, HEAD_SCALE_INPUT } from './attention.ts';
import {
  type AttentionVariant,
  decodeSizes,
  distinctShapes,
  type Signal,
  VariantTable,
} from './attention-variants.ts';
import type { CompiledModel } from './compile.ts';
import { PART_INPUTS, runOutputs, RUNS_INPUT, SIGNAL_OUTPUT, WHOLE_INPUT } from './model-graph.ts';
import { mayProductsSaturate } from './processor.ts';

/** Cache views of one KV head for a decode row. */
export interface HeadView {
  /** [entries, headDim] */
  readonly keys: Float32Array;
  readonly values: Float32Array;
}

/** Cache views of one KV head for a tile. */
export interface TileHeadView {
  /** [entries, headDim] */
  readonly keys: Float32Array;
  /** [entries, headDim] */
  readonly values: Float32Array;
  /** [rows, columns] added to the scores of the last entries, which not every row sees: 0, or a large negative number. */
  readonly mask: Float32Array;
}

export type AttentionFeed =
  | { readonly kind: 'none' }
  /** `slots` >= heads.length rows; the rows beyond are padding. */
  | {
      readonly kind: 'decode';
      readonly shape: AttentionShape;
      readonly slots: number;
      readonly heads: readonly (readonly HeadView[])[];
    }
  | {
      readonly kind: 'tile';
      readonly shape: AttentionShape;
      readonly heads: readonly TileHeadView[];
      /** [queryHeads] factor on each query head's output. */
      readonly headScale?: Float32Array | null;
    }
  /** The layer has an attention block, which is left out. */
  | { readonly kind: 'skip'; readonly shape: AttentionShape };

/** What a run computes; blocks left out pass their rows on. */
export interface RunParts {
  /** The attention block of layer - 1, whose feed is `skip` otherwise. */
  readonly attention: boolean;
  /** The MLP of layer - 1. */
  readonly mlp: boolean;
  /** Query, key and value of `layer`, or the logits. */
  readonly open: boolean;
}

export const ALL_PARTS: RunParts = { attention: true, mlp: true, open: true };

export interface LayerRun {
  /** 0 opens the first layer, `numLayers` closes the last one and gives logits. */
  readonly layer: number;
  readonly numRows: number;
  /** [numRows, hiddenSize] */
  readonly hidden: Float32Array;
  /** What the run before it projected for layer - 1; null for `none`. */
  readonly projected: Float32Array | null;
  /** Each [numRows, headDim / 2]; null in the last run. */
  readonly rope: { readonly cos: Float32Array; readonly sin: Float32Array } | null;
  readonly attention: AttentionFeed;
  readonly signal: Signal;
  /** Default: all. */
  readonly parts?: RunParts;
}

export interface LayerResult {
  /** [numRows, hiddenSize], or [numRows, vocabSize] logits in the last run, unless its `parts` leave them out. */
  readonly hidden: Float32Array;
  /** Query, key and value rows, [numRows, (queryHeads + 2 kvHeads) * headDim]; empty without attention. */
  readonly projected: Float32Array;
  /** The signals of all heads behind each other; empty when none was asked. */
  readonly signal: Float32Array;
}

const EMPTY = new Float32Array(0);

function scalar(value: number): Tensor {
  return new Tensor('int64', BigInt64Array.of(BigInt(value)), []);
}

function flags(...values: readonly boolean[]): Tensor {
  return new Tensor('bool', Uint8Array.from(values, Number), [values.length]);
}

const NO = flags(false);
const YES = flags(true);

/** Flags that a run reads. */
function partFeeds({ attention, mlp, open }: RunParts): Record<string, Tensor> {
  if (attention && mlp && open) return { [WHOLE_INPUT]: YES };
  return {
    [WHOLE_INPUT]: NO,
    [PART_INPUTS.attention]: attention ? YES : NO,
    [PART_INPUTS.mlp]: mlp ? YES : NO,
    [PART_INPUTS.open]: open ? YES : NO,
  };
}

function matrix(data: Float32Array, rows: number): Tensor {
  return new Tensor('float32', data, [rows, data.length / rows]);
}

/** What onnxruntime-node's own layer hands to its native part. */
interface Runner {
  run(
    feeds: Readonly<Record<string, Tensor>>,
    fetches: Readonly<Record<string, null>>,
    options: object,
  ): Promise<Readonly<Record<string, { readonly data: unknown }>>>;
}

/**
 * The native part of a session. The public `run` insists on every input, whether the chosen subgraph reads it or not,
 * and each costs more than a microsecond: with eight decode slots a third of what a run costs beside its arithmetic.
 * onnxruntime itself needs only those that are read.
 */
function runnerOf(session: InferenceSession): Runner {
  const { handler } = session as unknown as { readonly handler?: Runner };
  invariant(typeof handler?.run === 'function', 'this version of onnxruntime-node has no session handler');
  return handler;
}

function variantOf(feed: AttentionFeed, signal: Signal): AttentionVariant {
  if (feed.kind === 'none' || feed.kind === 'skip') return feed;
  if (feed.kind === 'decode') return { ...feed, signal };
  return { ...feed, kind: feed.headScale == null ? 'tile' : 'scaledTile', signal };
}

export class ModelSession {
  /** Numbers of slots that a decode run can have, ascending. */
  readonly decodeSizes: readonly number[];
  readonly #session: InferenceSession;
  readonly #numLayers: number;
  readonly #headDim: number;
  readonly #runner: Runner;
  /** One entry of zeros: what an empty decode slot attends to. */
  readonly #emptySlot: Tensor;
  /** The scalar that picks each variant of attention. */
  readonly #variants: VariantTable<Tensor>;
  /** By layer, the flags that pick its run. */
  readonly #runs: readonly Tensor[];

  private constructor(session: InferenceSession, model: CompiledModel) {
    this.#session = session;
    const shapes = distinctShapes(model.architecture.layers);
    this.#numLayers = model.architecture.layers.length;
    this.#headDim = model.architecture.config.headDim;
    this.#runner = runnerOf(session);
    this.#emptySlot = this.#entries(new Float32Array(this.#headDim));
    this.decodeSizes = decodeSizes(shapes);
    this.#variants = new VariantTable(shapes, scalar);
    const numRuns = this.#numLayers + 1;
    this.#runs = Array.from({ length: numRuns }, (_, layer) =>
      flags(...Array.from({ length: numRuns }, (__, run) => run === layer)),
    );
  }

  /** @throws AppError `startup` when the graph cannot be loaded */
  static async create(model: CompiledModel, threads: number): Promise<ModelSession> {
    try {
      const session = await InferenceSession.create(model.graphFile, {
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        executionMode: 'sequential',
        graphOptimizationLevel: 'all',
        logSeverityLevel: 3,
        ...(mayProductsSaturate() ? { extra: { session: { x64quantprecision: '1' } } } : {}),
      });
      return new ModelSession(session, model);
    } catch (error) {
      throw new AppError('startup', `cannot load ${model.graphFile}: ${errorMessage(error)}`, {
        cause: error,
      });
    }
  }

  #entries(data: Float32Array): Tensor {
    return new Tensor('float32', data, [data.length / this.#headDim, this.#headDim]);
  }

  #feedCaches(feeds: Record<string, Tensor>, attention: AttentionFeed, numRows: number): void {
    if (attention.kind === 'none' || attention.kind === 'skip') return;
    if (attention.kind === 'decode') {
      attention.heads.forEach((heads, slot) => {
        heads.forEach((view, j) => {
          const names = cacheInputs(slot, j);
          feeds[names.keys] = this.#entries(view.keys);
          feeds[names.values] = this.#entries(view.values);
        });
      });
      for (let slot = attention.heads.length; slot < attention.slots; slot++) {
        for (let j = 0; j < attention.shape.kvHeads; j++) {
          const names = cacheInputs(slot, j);
          feeds[names.keys] = feeds[names.values] = this.#emptySlot;
        }
      }
      return;
    }
    if (attention.headScale != null) {
      const { headScale } = attention;
      feeds[HEAD_SCALE_INPUT] = new Tensor('float32', headScale, [headScale.length]);
    }
    const masks = new Map<Float32Array, Tensor>();
    attention.heads.forEach((view, j) => {
      const names = cacheInputs(0, j);
      feeds[names.keys] = this.#entries(view.keys);
      feeds[names.values] = this.#entries(view.values);
      const maskedFrom = view.keys.length / this.#headDim - view.mask.length / numRows;
      feeds[names.maskedFrom] = new Tensor('int64', BigInt64Array.of(BigInt(maskedFrom)), [1]);
      feeds[names.maskedWhole] = maskedFrom === 0 ? YES : NO;
      const mask = masks.get(view.mask) ?? matrix(view.mask, numRows);
      masks.set(view.mask, mask);
      feeds[names.mask] = mask;
    });
  }

  async run(run: LayerRun): Promise<LayerResult> {
    const { layer, numRows, attention } = run;
    const runs = this.#runs[layer];
    invariant(runs !== undefined, `run ${layer} of ${this.#runs.length}`);
    const feeds: Record<string, Tensor> = {
      [RUNS_INPUT]: runs,
      attention: this.#variants.get(variantOf(attention, run.signal)),
      ...partFeeds(run.parts ?? ALL_PARTS),
      hidden: matrix(run.hidden, numRows),
    };
    if (run.projected !== null) feeds['projected'] = matrix(run.projected, numRows);
    if (run.rope !== null) {
      feeds['cos'] = matrix(run.rope.cos, numRows);
      feeds['sin'] = matrix(run.rope.sin, numRows);
    }
    this.#feedCaches(feeds, attention, numRows);
    const { hidden, projected } = runOutputs(layer);
    const isLast = layer === this.#numLayers;
    const { open } = run.parts ?? ALL_PARTS;
    const rows = isLast && !open ? projected : hidden;
    // The run that opens layer 0 would only copy its hidden rows.
    const fetches: Record<string, null> = layer === 0 ? {} : { [rows]: null };
    if (!isLast && open) fetches[projected] = null;
    if (run.signal !== 'none') fetches[SIGNAL_OUTPUT] = null;
    // Layer 0 not opened: nothing to compute, which onnxruntime refuses.
    if (Object.keys(fetches).length === 0) return { hidden: run.hidden, projected: EMPTY, signal: EMPTY };
    const results = await this.#runner.run(feeds, fetches, {});
    const data = (name: string): Float32Array => (results[name]?.data as Float32Array | undefined) ?? EMPTY;
    return {
      hidden: layer === 0 ? run.hidden : data(rows),
      projected: isLast ? EMPTY : data(projected),
      signal: data(SIGNAL_OUTPUT),
    };
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}
