/** One decode step: every sequence advances by one token, their rows share each linear layer. */
import type { AttentionShape } from '../graph/architecture.ts';
import type { AttentionFeed, HeadView } from '../graph/session.ts';
import type { SequenceCache } from '../kv/sequence-cache.ts';
import { appendProjected, decodeSlots, headViews } from './attention-feed.ts';
import type { Model } from './model.ts';
import { rowsOf } from './prefill-lane.ts';
import type { SequencePruning } from './pruning/sequence-pruning.ts';
import type { Sequence } from './sequence.ts';

export interface DecodeRow {
  readonly tokenId: number;
  readonly position: number;
  /** Room for one more entry has been reserved. */
  readonly cache: SequenceCache;
  /** Rows of one step leave out the same blocks. */
  readonly pruning: SequencePruning | null;
}

/** @returns logits of each row, [vocabSize] */
export async function decodeStep(model: Model, rows: readonly DecodeRow[]): Promise<Float32Array[]> {
  const { session, numLayers } = model;
  const numRows = decodeSlots(model, rows.length);
  const { hiddenSize, vocabSize } = model.architecture.config;
  const plan = rows[0]?.pruning?.policies.layers ?? null;
  const observes = rows.some(({ pruning }) => pruning?.observesDecode === true);
  let hidden = new Float32Array(numRows * hiddenSize);
  hidden.set(model.embedding.rows(rows.map((row) => row.tokenId)));
  const positions = new Int32Array(numRows);
  positions.set(rows.map((row) => row.position));
  const rope = model.rope.rows(positions);
  let projected = new Float32Array(0);
  for (let layer = 0; layer <= numLayers; layer++) {
    const done = layer - 1;
    const shape = model.architecture.layers[done]?.attention ?? null;
    const attends = shape !== null && plan?.attention[done] !== false;
    const views = attends
      ? rows.map((row, i) => viewsOf(model, done, row, rowsOf(projected, numRows, i, i + 1), i))
      : [];
    const attention: AttentionFeed =
      shape === null
        ? { kind: 'none' }
        : attends
          ? { kind: 'decode', shape, slots: numRows, heads: views }
          : { kind: 'skip', shape };
    const result = await session.run({
      layer,
      numRows,
      hidden,
      projected: attends ? projected : null,
      rope: layer === numLayers ? null : rope,
      attention,
      signal: attends && observes ? 'lastQuery' : 'none',
      ...(plan !== null && {
        parts: {
          attention: attends || shape === null,
          mlp: plan.mlp[done] !== false,
          open: plan.attention[layer] !== false,
        },
      }),
    });
    if (attends) settle(rows, done, shape, views, result.signal);
    if (result.projected.length > 0) {
      rows.forEach(({ cache, pruning, position }, i) => {
        const own = rowsOf(result.projected, numRows, i, i + 1);
        if (pruning === null) appendProjected(model, layer, cache, own, 1);
        else pruning.append(layer, own, Int32Array.of(position));
      });
    }
    hidden = result.hidden as Float32Array<ArrayBuffer>;
    projected = result.projected as Float32Array<ArrayBuffer>;
  }
  for (const { pruning } of rows) pruning?.decodeDone();
  return rows.map((_, row) => hidden.subarray(row * vocabSize, (row + 1) * vocabSize));
}

function viewsOf(
  model: Model,
  layer: number,
  row: DecodeRow,
  projected: Float32Array,
  slot: number,
): HeadView[] {
  return row.pruning?.decodeViews(layer, projected, slot) ?? headViews(model, layer, row.cache);
}

/** Lets each pruned sequence hear what its row attended to, and cut what has left its windows. */
function settle(
  rows: readonly DecodeRow[],
  layer: number,
  { queryHeads, kvHeads, headDim }: AttentionShape,
  views: readonly (readonly HeadView[])[],
  signal: Float32Array,
): void {
  let at = 0;
  rows.forEach(({ pruning, position }, i) => {
    const heads = views[i] ?? [];
    const numEntries = heads.reduce((sum, { keys }) => sum + keys.length / headDim, 0);
    const length = (numEntries * queryHeads) / kvHeads;
    if (pruning?.observesDecode === true) {
      const own = signal.subarray(at, at + length);
      pruning.observe(layer, pruning.decodeFed(layer, heads), own, { scores: true, importance: false });
    }
    at += length;
    pruning?.decodeLayerDone(layer, position);
  });
}

/** Sequences that share their decode runs: alike in what they leave out, and no more than there are slots. */
export function decodeGroups(sequences: readonly Sequence[], groupSize: number): Sequence[][] {
  const groups = new Map<string, Sequence[]>();
  for (const sequence of sequences) {
    const group = sequence.pruning === null ? '' : sequence.pruning.decodeGroup;
    const key = group ?? `alone ${sequence.request.input.id} ${sequence.choice}`;
    const members = groups.get(key);
    if (members === undefined) groups.set(key, [sequence]);
    else members.push(sequence);
  }
  return [...groups.values()].flatMap((members) =>
    Array.from({ length: Math.ceil(members.length / groupSize) }, (_, i) =>
      members.slice(i * groupSize, (i + 1) * groupSize),
    ),
  );
}
