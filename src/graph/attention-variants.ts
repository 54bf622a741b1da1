/** The forms of attention that a graph has: which there are, and the code by which a run picks one. */
import { invariant } from '../errors.ts';
import type { AttentionShape } from './architecture.ts';

/** Bounds the inputs and nodes of the decode graphs: models with many KV heads get fewer slots. */
const MAX_CACHED_HEADS = 128;

/**
 * Numbers of sequences that one decode run can advance, ascending; a step takes the smallest that fits and pads with
 * empty slots.
 */
export function decodeSizes(shapes: readonly AttentionShape[]): number[] {
  const kvHeads = Math.max(1, ...shapes.map((shape) => shape.kvHeads));
  return [1, 2, 3, 4, 6, 8, 12, 16].filter((slots) => slots === 1 || slots * kvHeads <= MAX_CACHED_HEADS);
}

/**
 * What a run reports about its attention, beside the attention itself: the probabilities of the last row, or their sums
 * or maxima over all rows, [heads, entries] of each KV head behind each other; behind the sums, the L1 magnitude of
 * each query head's output, summed over all rows. A decode run knows the first alone, of each slot.
 */
export type Signal = 'none' | 'lastQuery' | 'columnSums' | 'columnMaxima';

/**
 * Which attention a run uses: `none` for the run that opens layer 0, or after a layer without attention; `skip` where the
 * layer has one that is left out; `scaledTile` multiplies each query head's output by a factor.
 */
export type AttentionVariant =
  | { readonly kind: 'none' }
  | { readonly kind: 'skip'; readonly shape: AttentionShape }
  | {
      readonly kind: 'decode';
      readonly shape: AttentionShape;
      readonly slots: number;
      readonly signal: Signal;
    }
  | { readonly kind: 'tile' | 'scaledTile'; readonly shape: AttentionShape; readonly signal: Signal };

/** Distinct attention shapes of a model, in order of appearance: structurally pruned models have several. */
export function distinctShapes(
  layers: readonly { readonly attention: AttentionShape | null }[],
): AttentionShape[] {
  const shapes = layers.flatMap((layer) => (layer.attention === null ? [] : [layer.attention]));
  return shapes.filter((shape, i) => shapes.findIndex((other) => sameShape(shape, other)) === i);
}

function sameShape(a: AttentionShape, b: AttentionShape): boolean {
  return a.queryHeads === b.queryHeads && a.kvHeads === b.kvHeads && a.headDim === b.headDim;
}

/** Variants that decode steps and unpruned prompts use, of one shape. */
function commonVariants(shape: AttentionShape, sizes: readonly number[]): AttentionVariant[] {
  return [
    ...sizes.map((slots) => ({ kind: 'decode', shape, slots, signal: 'none' }) as const),
    { kind: 'tile', shape, signal: 'none' },
  ];
}

function rareVariants(shape: AttentionShape, sizes: readonly number[]): AttentionVariant[] {
  const observed = ['lastQuery', 'columnSums', 'columnMaxima'] as const;
  return [
    ...sizes.map((slots) => ({ kind: 'decode', shape, slots, signal: 'lastQuery' }) as const),
    ...observed.map((signal) => ({ kind: 'tile', shape, signal }) as const),
    { kind: 'skip', shape },
    ...(['none', ...observed] as const).map((signal) => ({ kind: 'scaledTile', shape, signal }) as const),
  ];
}

/**
 * All variants that a model with these attention shapes has; a variant's code, the `attention` scalar, is its
 * index.
 */
export function attentionVariants(shapes: readonly AttentionShape[]): AttentionVariant[] {
  const sizes = decodeSizes(shapes);
  return [
    ...shapes.flatMap((shape) => commonVariants(shape, sizes)),
    { kind: 'none' },
    ...shapes.flatMap((shape) => rareVariants(shape, sizes)),
  ];
}

/** What stands for each variant, made from its code. */
export class VariantTable<Value> {
  readonly #shapes: readonly AttentionShape[];
  readonly #values = new Map<string, Value>();

  constructor(shapes: readonly AttentionShape[], make: (code: number) => Value) {
    this.#shapes = shapes;
    attentionVariants(shapes).forEach((variant, code) => this.#values.set(this.#key(variant), make(code)));
  }

  #key(variant: AttentionVariant): string {
    if (variant.kind === 'none') return 'none';
    const shape = this.#shapes.findIndex((other) => sameShape(variant.shape, other));
    if (variant.kind === 'skip') return `skip ${shape}`;
    return `${variant.kind} ${variant.signal} ${variant.kind === 'decode' ? variant.slots : 1} ${shape}`;
  }

  /** @throws Error (a bug) for a variant that the graph does not have */
  get(variant: AttentionVariant): Value {
    const value = this.#values.get(this.#key(variant));
    invariant(value !== undefined, `the graph has no attention ${this.#key(variant)}`);
    return value;
  }
}

/** How often a variant is picked: one stream that decodes, and prompts, before all others. */
export function weightOf(variant: AttentionVariant): number {
  if (variant.kind === 'none' || variant.kind === 'skip' || variant.signal !== 'none') return 0.01;
  if (variant.kind === 'decode') return variant.slots === 1 ? 20 : 1;
  return variant.kind === 'tile' ? 5 : 0.01;
}
