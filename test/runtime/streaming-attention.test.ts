/** One attention layer with streaming heads, call by call, against the authors' two-cache forward. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { HeadView, TileHeadView } from '../../src/graph/session.ts';
import { BytePool } from '../../src/kv/byte-pool.ts';
import { SequenceCache } from '../../src/kv/sequence-cache.ts';
import type { Model } from '../../src/runtime/model.ts';
import { feedRows } from '../../src/runtime/pruning/row-feed.ts';
import { SequencePruning } from '../../src/runtime/pruning/sequence-pruning.ts';

interface Case {
  readonly name: string;
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  readonly full_kv_heads: boolean[];
  readonly sink: number;
  readonly recent: number;
  readonly calls: number[];
  readonly streaming_positions_after_each_call: (number[] | null)[];
}

const folder = join(import.meta.dirname, '../fixtures/duo');
const cases = JSON.parse(readFileSync(join(folder, 'attention.json'), 'utf8')) as Case[];
const tensors = readTensors(join(folder, 'attention.safetensors'));

/** Float32 tensors by name, without their shapes. */
function readTensors(file: string): (name: string) => Float32Array {
  const bytes = new Uint8Array(readFileSync(file)).buffer;
  const headerBytes = Number(new DataView(bytes).getBigUint64(0, true));
  const text = new TextDecoder().decode(new Uint8Array(bytes, 8, headerBytes));
  const header = JSON.parse(text) as Record<string, { dtype: string; data_offsets: [number, number] }>;
  return (name) => {
    const { dtype, data_offsets: offsets } = header[name]!;
    expect(dtype).toBe('F32');
    const [begin, end] = offsets.map((offset) => 8 + headerBytes + offset);
    return new Float32Array(bytes.slice(begin, end));
  };
}

/** [rows, (heads + 2 kvHeads) * headDim] as a layer projects them. */
function projectedRows({ name, heads, kv_heads: kvHeads, head_dim: headDim }: Case): Float32Array[] {
  const [q, k, v] = ['q', 'k', 'v'].map((part) => tensors(`${name}.${part}`));
  const [queries, entries] = [heads * headDim, kvHeads * headDim];
  return Array.from({ length: q!.length / queries }, (_, row) => {
    const projected = new Float32Array(queries + 2 * entries);
    projected.set(q!.subarray(row * queries, (row + 1) * queries));
    projected.set(k!.subarray(row * entries, (row + 1) * entries), queries);
    projected.set(v!.subarray(row * entries, (row + 1) * entries), queries + entries);
    return projected;
  });
}

/** Softmax attention of one query over what a view shows its row, in float64. */
function attend(
  query: Float32Array,
  { keys, values, mask }: TileHeadView,
  row: number,
  numRows: number,
): number[] {
  const headDim = query.length;
  const numEntries = keys.length / headDim;
  const numTail = mask.length / numRows;
  const scores = Array.from({ length: numEntries }, (_, i) => {
    const score = query.reduce((sum, value, d) => sum + value * keys[i * headDim + d]!, 0);
    const column = i - (numEntries - numTail);
    return score / Math.sqrt(headDim) + (column < 0 ? 0 : mask[row * numTail + column]!);
  });
  const top = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - top));
  const total = weights.reduce((a, b) => a + b, 0);
  return Array.from(query, (_, d) =>
    weights.reduce((sum, weight, i) => sum + (weight / total) * values[i * headDim + d]!, 0),
  );
}

const unmasked = ({ keys, values }: HeadView): TileHeadView => ({
  keys,
  values,
  mask: new Float32Array(0),
});

function open({ heads, kv_heads: kvHeads, head_dim: headDim, full_kv_heads: full, sink, recent }: Case) {
  const attention = { queryHeads: heads, kvHeads, headDim };
  const model = { numLayers: 1, architecture: { layers: [{ attention, window: null }] } };
  const cache = new SequenceCache(new BytePool(1e8), [{ kvHeads, headDim }], 512);
  const streaming = [full.map((isFull) => !isFull)];
  // As deployed: a call of many rows sees all of its own keys, and is cut after it.
  const kv = { kind: 'split', streaming, sink, recent, prefill: 'exact' } as const;
  return new SequencePruning({ tokens: null, kv, layers: null }, model as unknown as Model, cache, 0);
}

describe.each(cases)('$name: $calls', (reference) => {
  it('attends to the same, and keeps the same', () => {
    const { heads, kv_heads: kvHeads, head_dim: headDim, full_kv_heads: full, calls } = reference;
    const group = heads / kvHeads;
    const projected = projectedRows(reference);
    const expected = tensors(`${reference.name}.out`);
    const pruning = open(reference);
    let position = 0;
    calls.forEach((numRows, call) => {
      const rows = projected.slice(position, position + numRows);
      const positions = Int32Array.from(rows, (_, i) => position + i);
      pruning.pruned.cache.reserveMore(numRows, 0);
      pruning.append(0, Float32Array.from(rows.flatMap((row) => [...row])), positions);
      const isDecode = call > 0 && numRows === 1;
      const views = isDecode
        ? pruning.decodeViews(0, rows[0]!, 0).map(unmasked)
        : pruning.pruned
            .heads(0)
            .map((head, j) => feedRows(head, positions, pruning.visibility(0, j, 'prompt')).view);
      rows.forEach((row, i) => {
        for (let head = 0; head < heads; head++) {
          const query = row.subarray(head * headDim, (head + 1) * headDim);
          const at = ((position + i) * heads + head) * headDim;
          attend(query, views[Math.floor(head / group)]!, i, numRows).forEach((value, d) => {
            expect(Math.abs(value - expected[at + d]!), `token ${position + i}`).toBeLessThan(1e-4);
          });
        }
      });
      position += numRows;
      if (isDecode) pruning.decodeLayerDone(0, position - 1);
      else pruning.layerDone(0, position);
      pruning.pruned.heads(0).forEach((head, j) => {
        const all = Array.from({ length: position }, (_, i) => i);
        const kept = full[j] === true ? all : reference.streaming_positions_after_each_call[call];
        expect([...head.positions], `after call ${call}`).toEqual(kept);
      });
    });
    expect(position).toBe(projected.length);
    pruning.pruned.cache.free();
  });
});
