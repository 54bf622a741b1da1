/** One decode step: every sequence advances by one token, their rows share each linear layer. */
import type { LayerResult } from '../graph/session.ts';
import type { SequenceCache } from '../kv/sequence-cache.ts';
import { decodeFeed, decodeSlots } from './attention-feed.ts';
import type { Model } from './model.ts';

export interface DecodeRow {
  readonly tokenId: number;
  readonly position: number;
  /** Room for one more entry has been reserved. */
  readonly cache: SequenceCache;
}

/** Appends row `row` of a run's keys and values, [kvHeads, numRows, headDim], to a layer's caches. */
function appendRow(
  cache: SequenceCache,
  layer: number,
  result: LayerResult,
  row: number,
  numRows: number,
): void {
  cache.heads(layer).forEach((head, j) => {
    const from = (j * numRows + row) * head.headDim;
    const to = from + head.headDim;
    head.append(result.key.subarray(from, to), result.value.subarray(from, to));
  });
}

/** @returns logits of each row, [vocabSize] */
export async function decodeStep(model: Model, rows: readonly DecodeRow[]): Promise<Float32Array[]> {
  const { session, numLayers } = model;
  const numRows = decodeSlots(model, rows.length);
  const caches = rows.map((row) => row.cache);
  const { hiddenSize, vocabSize } = model.architecture.config;
  let hidden = new Float32Array(numRows * hiddenSize);
  hidden.set(model.embedding.rows(rows.map((row) => row.tokenId)));
  const positions = new Int32Array(numRows);
  positions.set(rows.map((row) => row.position));
  const rope = model.rope.rows(positions);
  let query: Float32Array | null = null;
  for (let layer = 0; layer <= numLayers; layer++) {
    const attention = layer === 0 ? ({ kind: 'none' } as const) : decodeFeed(model, layer - 1, caches);
    const result: LayerResult = await session.run({
      layer,
      numRows,
      hidden,
      query: attention.kind === 'none' ? null : query,
      rope: layer === numLayers ? null : rope,
      attention,
      signal: 'none',
    });
    if (layer < numLayers)
      caches.forEach((cache, row) => {
        appendRow(cache, layer, result, row, numRows);
      });
    hidden = result.hidden as Float32Array<ArrayBuffer>;
    query = result.query;
  }
  return rows.map((_, row) => hidden.subarray(row * vocabSize, (row + 1) * vocabSize));
}
