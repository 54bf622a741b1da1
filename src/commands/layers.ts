/** `coppice layers`: measures which blocks a model misses least, and prints the `pruning` value that leaves them out. */
import { type Command, Option } from 'commander';
import {
  attentionSimilarities,
  blocksOf,
  type ChosenBlock,
  leastMissedBlocks,
} from '../runtime/calibration/block-scores.ts';
import {
  addCalibrationOptions,
  calibrate,
  calibratedModel,
  type Calibration,
  type CalibrationSizes,
  wholeNumber,
} from './calibration.ts';
import { showProgress } from './progress.ts';

/** Dropped when `--drop` does not say: a quarter, as in most results of the papers. */
const DEFAULT_SHARE = 1 / 4;

interface Result {
  /** Lines for people, with a heading. */
  readonly table: string;
  /** Value of the family `layers`. */
  readonly value: object;
}

interface Measure {
  readonly sizes: CalibrationSizes;
  readonly run: (calibration: Calibration, drop: string | undefined) => Promise<Result>;
}

const MEASURES = {
  similarity: { sizes: { tokens: 8192, passageTokens: 1024, numReadings: 1 }, run: similarity },
  // Runs the model once for each candidate of each step.
  divergence: { sizes: { tokens: 1024, passageTokens: 256, numReadings: 1 }, run: divergence },
} as const satisfies Readonly<Record<string, Measure>>;

export function addLayersCommand(program: Command): void {
  const command = program
    .command('layers')
    .description('find the attention blocks and MLPs that a model misses least')
    .addOption(
      new Option('--measure <name>', 'similarity: attention blocks that change least; divergence: all blocks')
        .choices(Object.keys(MEASURES))
        .default('similarity'),
    )
    .option('--drop <number>', 'how many to leave out (default: a quarter)');
  addCalibrationOptions(command).action(() => layers(command));
}

async function layers(command: Command): Promise<void> {
  const flags: { measure: keyof typeof MEASURES; drop?: string } = command.opts();
  const measure = MEASURES[flags.measure];
  const modelDir = await calibratedModel(command);
  // What can be refused now should not wait for the model; how many there are to drop is not known yet.
  wholeNumber(flags.drop, 'drop');
  await calibrate(command, modelDir, measure.sizes, async (calibration) => {
    const { table, value } = await measure.run(calibration, flags.drop);
    process.stderr.write(table);
    process.stdout.write(`${JSON.stringify({ layers: value })}\n`);
  });
}

function numDropped(drop: string | undefined, numBlocks: number): number {
  return wholeNumber(drop, 'drop', numBlocks) ?? Math.max(1, Math.round(numBlocks * DEFAULT_SHARE));
}

async function similarity({ model, passages }: Calibration, drop: string | undefined): Promise<Result> {
  const numAttention = blocksOf(model).filter(({ part }) => part === 'attention').length;
  const count = numDropped(drop, numAttention);
  const scores = await attentionSimilarities(model, passages, (done) => {
    showProgress(`passage ${done} of ${passages.length}`, done === passages.length);
  });
  const dropped = mostSimilar(scores, count);
  const lines = scores.map((score, layer) => {
    const mark = dropped.includes(layer) ? '  drop' : '';
    return `${String(layer).padStart(5)}  ${score === null ? 'no attention' : score.toFixed(6)}${mark}\n`;
  });
  return {
    table: `layer  cosine of the rows before and after attention\n${lines.join('')}`,
    value: { policy: 'attention-drop', drop: dropped },
  };
}

/** Ascending layers of the highest scores; of equal ones the first. */
function mostSimilar(scores: readonly (number | null)[], count: number): number[] {
  return scores
    .flatMap((score, layer) => (score === null ? [] : [{ score, layer }]))
    .sort((a, b) => b.score - a.score)
    .slice(0, count)
    .map(({ layer }) => layer)
    .sort((a, b) => a - b);
}

async function divergence({ model, passages }: Calibration, drop: string | undefined): Promise<Result> {
  const count = numDropped(drop, blocksOf(model).length);
  const chosen = await leastMissedBlocks(model, passages, count, (_, done) => {
    showProgress(`block ${done} of ${count}`, done === count);
  });
  const layersOf = (part: ChosenBlock['part']): number[] =>
    chosen
      .filter((block) => block.part === part)
      .map(({ layer }) => layer)
      .sort((a, b) => a - b);
  const lines = chosen.map(
    (block) =>
      `${block.part.padEnd(9)}  ${String(block.layer).padStart(5)}  ${block.divergence.toExponential(4)}\n`,
  );
  return {
    table: `block      layer  divergence without it and those above, nats a token\n${lines.join('')}`,
    value: { policy: 'finercut', attention: layersOf('attention'), mlp: layersOf('mlp') },
  };
}
