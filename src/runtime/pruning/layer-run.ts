/** Runs some rows of a pruned sequence through parts of a layer. */
import type { Signal } from '../../graph/attention-variants.ts';
import type { AttentionFeed, LayerResult } from '../../graph/session.ts';
import type { Model } from '../model.ts';
import type { RowBatch } from './row-batch.ts';
import { type FedHead, feedRows } from './row-feed.ts';
import type { SequencePruning } from './sequence-pruning.ts';

export interface PartialRun {
  /** The layer that is opened; the one before it is finished. */
  readonly layer: number;
  readonly rows: RowBatch;
  /** `attend` = its attention alone, for the signal. */
  readonly finish: 'whole' | 'attend' | 'not';
  readonly open: boolean;
  readonly phase: 'prompt' | 'decode';
  readonly signal?: Signal;
  /** By position, what the rows may see; null = everything. */
  readonly selected?: Uint8Array | null;
}

export interface PartialResult extends LayerResult {
  /** What the attention read, head by head; empty if there was none. */
  readonly fed: readonly FedHead[];
}

function isRun(positions: Int32Array): boolean {
  return (positions.at(-1) ?? 0) - (positions[0] ?? 0) === positions.length - 1;
}

export async function runRows(
  model: Model,
  pruning: SequencePruning,
  { layer, rows, finish, open, phase, signal = 'none', selected = null }: PartialRun,
): Promise<PartialResult> {
  const { positions } = rows;
  const done = layer - 1;
  const shape = model.architecture.layers[done]?.attention ?? null;
  const { layers: plan } = pruning.policies;
  const attends = finish !== 'not' && shape !== null && plan?.attention[done] !== false;
  const feedAll = (): FedHead[] =>
    pruning.pruned
      .heads(done)
      .map((head, j) => feedRows(head, positions, pruning.visibility(done, j, phase, selected)));
  const reads = phase === 'decode' && pruning.readsInBlocks;
  const fed = !attends ? [] : reads ? pruning.readFed(done, rows.projected) : feedAll();
  const feed = (): AttentionFeed => {
    if (shape === null) return { kind: 'none' };
    if (!attends) return { kind: 'skip', shape };
    return { kind: 'tile', shape, heads: fed.map(({ view }) => view), headScale: pruning.headScale(done) };
  };
  const isConsecutive = isRun(positions);
  const [first = 0, last = 0] = [positions[0], positions.at(-1)];
  const result = await model.session.run({
    layer,
    numRows: positions.length,
    hidden: rows.hidden,
    projected: attends ? rows.projected : null,
    rope:
      layer === model.numLayers
        ? null
        : isConsecutive
          ? model.rope.range(first, last + 1)
          : model.rope.rows(positions),
    attention: feed(),
    signal: attends ? signal : 'none',
    parts: {
      attention: attends || shape === null,
      mlp: finish === 'whole' && plan?.mlp[done] !== false,
      open: open && plan?.attention[layer] !== false,
    },
  });
  return { ...result, fed };
}
