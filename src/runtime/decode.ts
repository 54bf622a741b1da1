/** One decode step: every sequence advances by one token, their rows share each linear layer. */
import type { LayerResult } from '../graph/session.ts';
import type { SequenceCache } from '../kv/sequence-cache.ts';
import { appendProjected, decodeFeed, decodeSlots } from './attention-feed.ts';
import type { Model } from './model.ts';

export interface DecodeRow {
  readonly tokenId: number;
  readonly position: number;
  /** Room for one more entry has been reserved. */
  readonly cache: SequenceCache;
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
  let projected: Float32Array | null = null;
  for (let layer = 0; layer <= numLayers; layer++) {
    const attention = layer === 0 ? ({ kind: 'none' } as const) : decodeFeed(model, layer - 1, caches);
    const result: LayerResult = await session.run({
      layer,
      numRows,
      hidden,
      projected: attention.kind === 'none' ? null : projected,
      rope: layer === numLayers ? null : rope,
      attention,
      signal: 'none',
    });
    const width = result.projected.length / numRows;
    caches.forEach((cache, row) => {
      if (width > 0)
        appendProjected(model, layer, cache, result.projected.subarray(row * width, (row + 1) * width), 1);
    });
    hidden = result.hidden as Float32Array<ArrayBuffer>;
    projected = result.projected;
  }
  return rows.map((_, row) => hidden.subarray(row * vocabSize, (row + 1) * vocabSize));
}
