/** What DuoAttention reports as saved is memory that the process does not have: measured at a long prompt. */
import { expect, it } from 'vitest';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { checkIntegrity } from '../../src/kv/integrity.ts';
import { range } from '../../src/kv/pruned-cache.ts';
import { SequenceCache } from '../../src/kv/sequence-cache.ts';
import type { KvPolicy } from '../../src/policies/index.ts';
import type { Model } from '../../src/runtime/model.ts';
import { SequencePruning } from '../../src/runtime/pruning/sequence-pruning.ts';

const MIB = 2 ** 20;
const NUM_LAYERS = 24;
const NUM_TOKENS = 8192;
const NUM_NEW = 100;
const TILE_ROWS = 256;
const ATTENTION = { queryHeads: 2, kvHeads: 2, headDim: 64 };
/** Two queries, two keys and two values a row. */
const WIDTH = 6 * ATTENTION.headDim;
const TILE = new Float32Array(TILE_ROWS * WIDTH).fill(1);

const layers = Array.from({ length: NUM_LAYERS }, () => ({ attention: ATTENTION, window: null }));
const kvShape = layers.map(() => ({ kvHeads: ATTENTION.kvHeads, headDim: ATTENTION.headDim }));
const model = { numLayers: NUM_LAYERS, architecture: { layers }, kvShape } as unknown as Model;

function rssMib(): number {
  return process.memoryUsage().rss / MIB;
}

/** A prompt in tiles, layer by layer, and then decoded tokens; resident sizes in MiB above what was there before. */
function measure(kv: KvPolicy | null) {
  const pool = new BytePool(300 * MIB);
  const cache = new SequenceCache(pool, kvShape, 2 * NUM_TOKENS);
  const pruning = new SequencePruning({ tokens: null, kv, layers: null }, model, cache, 0);
  const before = rssMib();
  let peak = 0;
  for (let layer = 0; layer < NUM_LAYERS; layer++) {
    for (let at = 0; at < NUM_TOKENS; at += TILE_ROWS) {
      expect(cache.reserveMore(TILE_ROWS, layer)).toBe(true);
      pruning.append(layer, TILE, range(at, at + TILE_ROWS));
    }
    peak = Math.max(peak, rssMib() - before);
    if (layer > 0) pruning.layerDone(layer - 1, NUM_TOKENS);
  }
  pruning.layerDone(NUM_LAYERS - 1, NUM_TOKENS);
  for (let position = NUM_TOKENS; position < NUM_TOKENS + NUM_NEW; position++) {
    expect(cache.reserveMore(1)).toBe(true);
    for (let layer = 0; layer < NUM_LAYERS; layer++) {
      pruning.append(layer, TILE.subarray(0, WIDTH), Int32Array.of(position));
      pruning.decodeLayerDone(layer, position);
    }
    pruning.decodeDone();
  }
  const end = rssMib() - before;
  const report = pruning.report(NUM_TOKENS + NUM_NEW).kv;
  checkIntegrity(pool, cache);
  const pooled = cache.bytes / MIB;
  cache.free();
  checkIntegrity(pool);
  return { peak, end, pooled, report, left: rssMib() - before };
}

it('half of the heads streaming take half of the resident memory away', () => {
  measure(null); // The process finds its size.
  const dense = measure(null);
  const streaming = layers.map((_, layer) => [layer % 2 === 0, layer % 2 === 1]);
  const duo = measure({ kind: 'split', streaming, sink: 16, recent: 64, prefill: 'streaming' });
  const [bytes, peakBytes, denseBytes] = [
    duo.report!.bytes / MIB,
    duo.report!.peakBytes / MIB,
    duo.report!.denseBytes / MIB,
  ];
  expect(denseBytes).toBeGreaterThan(190);
  expect(bytes / denseBytes).toBeLessThan(0.52);
  expect(peakBytes / denseBytes).toBeLessThan(0.57);
  expect(dense.end, 'dense, resident').toBeGreaterThan(0.9 * denseBytes);
  expect(dense.end - duo.end, 'gone, resident').toBeGreaterThan(0.85 * (denseBytes - bytes));
  expect(dense.peak - duo.peak, 'gone at the peak, too').toBeGreaterThan(0.8 * (denseBytes - peakBytes));
  // Whole pages, and slots reserved ahead.
  expect(duo.pooled).toBeLessThan(1.05 * bytes);
  for (const { left } of [dense, duo]) expect(left).toBeLessThan(30);
});
