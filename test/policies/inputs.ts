/** Model shapes and made-up inputs for policies: random numbers where the engine would give measured ones. */
import fc from 'fast-check';
import type { AliveTokens, HeadEntries, ModelShape } from '../../src/policies/index.ts';

function shape(layers: readonly (readonly [queryHeads: number, kvHeads: number])[]): ModelShape {
  return {
    layers: layers.map(([queryHeads, kvHeads]) => ({ queryHeads, kvHeads, hasMlp: true })),
    gates: layers.map(([, kvHeads], layer) =>
      Array.from({ length: kvHeads }, (_, head) => ((layer * 7 + head * 3) % 10) / 10),
    ),
  };
}

const dense = (numLayers: number, queryHeads: number, kvHeads: number): ModelShape =>
  shape(Array.from({ length: numLayers }, () => [queryHeads, kvHeads] as const));

export const DENSE_SHAPE = dense(6, 6, 2);

export const SHAPES: Readonly<Record<string, ModelShape>> = {
  'two layers, one KV head': dense(2, 4, 1),
  'three layers, grouped': dense(3, 4, 2),
  'six layers, as the demo model': DENSE_SHAPE,
  'twenty-four layers': dense(24, 14, 2),
};

/** As structurally pruned checkpoints: no attention in layer 2, no MLP in layer 3. */
export const PRUNED_SHAPE: ModelShape = {
  layers: [
    { queryHeads: 4, kvHeads: 2, hasMlp: true },
    { queryHeads: 4, kvHeads: 2, hasMlp: true },
    { queryHeads: 0, kvHeads: 0, hasMlp: true },
    { queryHeads: 2, kvHeads: 2, hasMlp: false },
    { queryHeads: 4, kvHeads: 2, hasMlp: true },
  ],
  gates: null,
};

export const share = fc.double({ min: 0, max: 1, noNaN: true });

export const vector = (length: number): fc.Arbitrary<Float32Array> =>
  fc.float32Array({ min: -4, max: 4, noNaN: true, minLength: length, maxLength: length });

/** [count] of few different values, so that ties are frequent. */
const scores = (count: number): fc.Arbitrary<Float32Array> =>
  fc
    .float32Array({ min: 0, max: 1, noNaN: true, minLength: count, maxLength: count })
    .chain((values) =>
      fc
        .integer({ min: 2, max: 1000 })
        .map((steps) => values.map((value) => Math.round(value * steps) / steps)),
    );

/** Ascending positions with gaps. */
const positions = (count: number): fc.Arbitrary<Int32Array> =>
  fc
    .array(fc.integer({ min: 1, max: 3 }), { minLength: count, maxLength: count })
    .map((gaps) => Int32Array.from(gaps.map((_, i) => gaps.slice(0, i).reduce((a, b) => a + b, 0))));

export function aliveTokens(layer: number, numLayers: number): fc.Arbitrary<AliveTokens> {
  return fc.integer({ min: 1, max: 90 }).chain((count) =>
    fc.record({
      layer: fc.constant(layer),
      numLayers: fc.constant(numLayers),
      positions: positions(count),
      importance: scores(count),
    }),
  );
}

interface MadeEntries {
  readonly entries: HeadEntries;
  /** What the policy could have changed: everything that it was given. */
  readonly arrays: readonly (Float32Array | Int32Array)[];
}

/** Entries of one head whose protected ones fit in `sink` and `recent`. */
export function headEntries(limits: { sink: number; recent: number }): fc.Arbitrary<MadeEntries> {
  const sizes = fc.record({
    length: fc.integer({ min: 1, max: 90 }),
    numSinks: fc.integer({ min: 0, max: limits.sink }),
    numRecent: fc.integer({ min: 0, max: limits.recent }),
    head: fc.nat({ max: 3 }),
    layer: fc.nat({ max: 5 }),
  });
  return sizes.chain(({ length, ...rest }) =>
    fc
      .tuple(
        positions(length),
        scores(length),
        scores(length),
        scores(length),
        scores(length),
        scores(length),
        scores(length),
      )
      .map((arrays) => {
        const [places, attention, layerAttention, keyNorms, valueNorms, similarities, expected] = arrays;
        const numSinks = Math.min(rest.numSinks, length);
        const entries: HeadEntries = {
          layer: rest.layer,
          numLayers: 6,
          head: rest.head,
          length,
          positions: places,
          numSinks,
          numRecent: Math.min(rest.numRecent, length - numSinks),
          attention: () => attention,
          layerAttention: () => layerAttention,
          keyNorms: () => keyNorms,
          valueNorms: () => valueNorms,
          keySimilarities: () => similarities,
          expectedAttention: () => expected,
        };
        return { entries, arrays };
      }),
  );
}

/** Entries with the given numbers; everything else is zeros. */
export function plainEntries(length: number, given: Partial<HeadEntries> = {}): HeadEntries {
  const zeros = (): Float32Array => new Float32Array(length);
  return {
    layer: 0,
    numLayers: 6,
    head: 0,
    length,
    positions: Int32Array.from({ length }, (_, i) => i),
    numSinks: 0,
    numRecent: 0,
    attention: zeros,
    layerAttention: zeros,
    keyNorms: zeros,
    valueNorms: zeros,
    keySimilarities: zeros,
    expectedAttention: zeros,
    ...given,
  };
}
