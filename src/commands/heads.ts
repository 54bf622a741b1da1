/** `coppice heads`: computes which KV heads need distant tokens, and writes it where `duo-attention` looks for it. */
import { statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { AppError } from '../errors.ts';
import { findHeadPattern, HEAD_PATTERN_FOLDER, writeHeadPattern } from '../graph/head-pattern.ts';
import { AREA_POSITIONS } from '../runtime/calibration/head-area.kernel.ts';
import { computeGates } from '../runtime/calibration/head-gates.ts';
import { addCalibrationOptions, calibrate, calibratedModel, type Calibration } from './calibration.ts';
import { packageVersion } from './options.ts';
import { showProgress } from './progress.ts';

const SIZES = { tokens: 8192, passageTokens: 1024 };

/** What other programs that read the files let streaming heads keep; ours has options for it, with these defaults. */
const SINK = 16;
const RECENT = 64;

export function addHeadsCommand(program: Command): void {
  const command = program
    .command('heads')
    .description('compute a DuoAttention pattern for a model that has none')
    .option('--out <folder>', `where to write it (default: ${HEAD_PATTERN_FOLDER} in the model's folder)`)
    .option('--force', 'replace a pattern that is there');
  addCalibrationOptions(command).action(() => heads(command));
}

async function heads(command: Command): Promise<void> {
  const flags: { out?: string; force?: boolean } = command.opts();
  const modelDir = await calibratedModel(command);
  const folder = flags.out === undefined ? join(modelDir, HEAD_PATTERN_FOLDER) : resolve(flags.out);
  const existing = findHeadPattern(folder);
  if (existing !== null && flags.force !== true)
    throw new AppError('startup', `expected --force to replace ${existing}, or --out for another folder`);
  const parent = dirname(folder);
  if (statSync(parent, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new AppError('startup', `cannot write the pattern to ${folder}: ${parent} is no folder`);
  await calibrate(command, modelDir, SIZES, (calibration) => write(calibration, folder));
}

async function write({ model, passages, numTokens, textFile }: Calibration, folder: string): Promise<void> {
  const gates = await computeGates(model, passages, (done) => {
    showProgress(`passage ${done} of ${passages.length}`, done === passages.length);
  });
  const origin = {
    method: 'area',
    positions: AREA_POSITIONS,
    text: textFile === null ? 'bundled' : basename(textFile),
    tokens: numTokens,
    passages: passages.length,
    made_by: `coppice ${packageVersion()}`,
  };
  writeHeadPattern(folder, model.architecture, { gates, sink: SINK, recent: RECENT }, origin);
  process.stderr.write(table(gates));
  process.stdout.write(`${folder}\n`);
}

/** One line a layer, one column a KV head. */
function table(gates: readonly (readonly number[])[]): string {
  const lines = gates.map((row, layer) => {
    const cells = row.length === 0 ? ['no attention'] : row.map((gate) => gate.toFixed(4));
    return `${String(layer).padStart(5)}  ${cells.join('  ')}\n`;
  });
  return `layer  gates of the KV heads: 1 = looks far back, 0 = near\n${lines.join('')}`;
}
