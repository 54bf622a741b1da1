/** Which blocks a model misses least: the scores behind the `layers` policies, measured on a calibration text. */
import type { Model } from '../model.ts';
import { invariant } from '../../errors.ts';
import { logSoftmaxRows, sumOfCosines, sumOfDivergences } from './distance.kernel.ts';
import {
  type Blocks,
  nextLayer,
  openPassage,
  passageLogits,
  type PassageRows,
  rowsAfter,
} from './passage.ts';

/** Rows whose logits are compared at a time: bounds [rows, vocabSize]. */
const LOGIT_ROWS = 32;

/** One attention block or MLP of the model. */
export interface Block {
  readonly layer: number;
  readonly part: keyof Blocks;
}

/** What a model without this block and all chosen before it predicts, against the whole model. */
export interface ChosenBlock extends Block {
  /** Jensen-Shannon divergence in nats, mean over tokens. */
  readonly divergence: number;
}

/**
 * Mean over tokens of the cosine between a layer's input and that input plus its attention output (LLM-Drop, arXiv
 * 2406.15786): close to 1 = the block adds next to nothing. Null for a layer without attention.
 */
export async function attentionSimilarities(
  model: Model,
  passages: readonly Int32Array[],
  onPassage: (done: number) => void = () => undefined,
): Promise<(number | null)[]> {
  const { layers, config } = model.architecture;
  const sums = layers.map(() => 0);
  for (const [index, tokenIds] of passages.entries()) {
    let rows = await openPassage(model, tokenIds);
    for (const [layer, { attention }] of layers.entries()) {
      let blocks = { attention: true, mlp: true };
      if (attention !== null) {
        const hidden = await rowsAfter(model, rows, { attention: true, mlp: false });
        sums[layer] = (sums[layer] ?? 0) + sumOfCosines(rows.hidden, hidden, config.hiddenSize);
        rows = { ...rows, hidden };
        blocks = { attention: false, mlp: true };
      }
      if (layer + 1 < model.numLayers) rows = await nextLayer(model, rows, blocks);
    }
    onPassage(index + 1);
  }
  const numTokens = passages.reduce((sum, { length }) => sum + length, 0);
  return layers.map(({ attention }, layer) => (attention === null ? null : (sums[layer] ?? 0) / numTokens));
}

/** All blocks that the model has, in the order in which they run. */
export function blocksOf(model: Model): Block[] {
  return model.architecture.layers.flatMap(({ attention, mlpWidth }, layer): Block[] => [
    ...(attention === null ? [] : [{ layer, part: 'attention' as const }]),
    ...(mlpWidth === null ? [] : [{ layer, part: 'mlp' as const }]),
  ]);
}

function isSame(a: Block, b: Block): boolean {
  return a.layer === b.layer && a.part === b.part;
}

class GreedySearch {
  readonly #model: Model;
  readonly #blocks: readonly Block[];
  readonly #chosen: Block[] = [];

  constructor(model: Model) {
    this.#model = model;
    this.#blocks = blocksOf(model);
  }

  /** What runs of a layer when the chosen blocks and `also` are left out. */
  #running(layer: number, also: Block | null): Blocks {
    const isOn = (part: keyof Blocks): boolean =>
      ![...this.#chosen, ...(also === null ? [] : [also])].some((block) => isSame(block, { layer, part }));
    return { attention: isOn('attention'), mlp: isOn('mlp') };
  }

  /** Sum over rows of the divergence from the dense `logP` [rows, vocabSize], with rows going on from any layer. */
  async #divergence(from: PassageRows, also: Block, logP: Float32Array): Promise<number> {
    const model = this.#model;
    let rows = from;
    while (rows.layer + 1 < model.numLayers)
      rows = await nextLayer(model, rows, this.#running(rows.layer, also));
    const { vocabSize } = model.architecture.config;
    const blocks = this.#running(rows.layer, also);
    let sum = 0;
    for (let begin = 0; begin < rows.numRows; begin += LOGIT_ROWS) {
      const end = Math.min(begin + LOGIT_ROWS, rows.numRows);
      const logits = await passageLogits(model, rows, begin, end, blocks);
      logSoftmaxRows(logits, vocabSize);
      sum += sumOfDivergences(logP.subarray(begin * vocabSize, end * vocabSize), logits);
    }
    return sum;
  }

  /** Log-probabilities of the whole model, [rows, vocabSize]. */
  async #dense(tokenIds: Int32Array): Promise<Float32Array> {
    const model = this.#model;
    const whole = { attention: true, mlp: true };
    let rows = await openPassage(model, tokenIds);
    while (rows.layer + 1 < model.numLayers) rows = await nextLayer(model, rows, whole);
    const { vocabSize } = model.architecture.config;
    const all = new Float32Array(rows.numRows * vocabSize);
    for (let begin = 0; begin < rows.numRows; begin += LOGIT_ROWS) {
      const end = Math.min(begin + LOGIT_ROWS, rows.numRows);
      all.set(await passageLogits(model, rows, begin, end, whole), begin * vocabSize);
    }
    logSoftmaxRows(all, vocabSize);
    return all;
  }

  /**
   * Chooses the next block. What comes before a candidate's layer is the same for all candidates of that layer: a
   * passage goes through the layers once, and each candidate branches off where it makes the first difference.
   */
  async step(passages: readonly Int32Array[]): Promise<ChosenBlock> {
    const model = this.#model;
    const candidates = this.#blocks.filter((block) => !this.#chosen.some((other) => isSame(block, other)));
    const sums = candidates.map(() => 0);
    for (const tokenIds of passages) {
      const logP = await this.#dense(tokenIds);
      let rows = await openPassage(model, tokenIds);
      for (let layer = 0; layer < model.numLayers; layer++) {
        for (const [i, candidate] of candidates.entries()) {
          if (candidate.layer !== layer) continue;
          sums[i] = (sums[i] ?? 0) + (await this.#divergence(rows, candidate, logP));
        }
        if (layer + 1 < model.numLayers) rows = await nextLayer(model, rows, this.#running(layer, null));
      }
    }
    const numTokens = passages.reduce((total, { length }) => total + length, 0);
    // Of equal sums the first.
    const best = sums.indexOf(Math.min(...sums));
    const block = candidates[best];
    invariant(block !== undefined, `a smallest of ${sums.length} divergences`);
    this.#chosen.push(block);
    return { ...block, divergence: (sums[best] ?? 0) / numTokens };
  }
}

/**
 * FinerCut (arXiv 2405.18218): the block without which the predictions change least is left out, then the next one,
 * up to `count`. The authors' code averages KL(M || P) + KL(M || Q) over tokens and vocabulary instead of the
 * Jensen-Shannon divergence that their paper names; this is the paper's.
 */
export async function leastMissedBlocks(
  model: Model,
  passages: readonly Int32Array[],
  count: number,
  onChosen: (chosen: ChosenBlock, done: number) => void = () => undefined,
): Promise<ChosenBlock[]> {
  const search = new GreedySearch(model);
  const chosen: ChosenBlock[] = [];
  while (chosen.length < count) {
    const block = await search.step(passages);
    chosen.push(block);
    onChosen(block, chosen.length);
  }
  return chosen;
}
