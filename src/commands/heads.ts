/** `coppice heads`: computes which KV heads need distant tokens, and writes it where `duo-attention` looks for it. */
import { statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { AppError } from '../errors.ts';
import { packageInfo } from '../package-info.ts';
import { findHeadPattern, HEAD_PATTERN_FOLDER, writeHeadPattern } from '../graph/head-pattern.ts';
import { AREA_POSITIONS } from '../runtime/calibration/head-area.kernel.ts';
import { computeGates } from '../runtime/calibration/head-gates.ts';
import { computeRepeatGates } from '../runtime/calibration/repeat-gates.ts';
import {
  addCalibrationOptions,
  calibrate,
  calibratedModel,
  type Calibration,
  type CalibrationSizes,
} from './calibration.ts';
import { showProgress } from './progress.ts';

/** What other programs that read the files let streaming heads keep; ours has options for it, with these defaults. */
const SINK = 16;
const RECENT = 64;

interface Method {
  readonly sizes: CalibrationSizes;
  /** Written beside the name. */
  readonly origin: Readonly<Record<string, unknown>>;
  readonly gates: (calibration: Calibration, onPassage: (done: number) => void) => Promise<number[][]>;
}

const METHODS = {
  area: {
    sizes: { tokens: 8192, passageTokens: 1024, numReadings: 1 },
    origin: { positions: AREA_POSITIONS },
    gates: ({ model, passages }, onPassage) => computeGates(model, passages, onPassage),
  },
  kvzip: {
    sizes: { tokens: 8192, passageTokens: 2048, numReadings: 2 },
    origin: {},
    gates: repeatGates,
  },
} as const satisfies Readonly<Record<string, Method>>;

export function addHeadsCommand(program: Command): void {
  const command = program
    .command('heads')
    .description('compute a DuoAttention pattern for a model that has none')
    .addOption(
      new Option(
        '--method <name>',
        'area: how far back the mean query looks; kvzip: the most attention to one token while repeating the text',
      )
        .choices(Object.keys(METHODS))
        .default('area'),
    )
    .option('--out <folder>', `where to write it (default: ${HEAD_PATTERN_FOLDER} in the model's folder)`)
    .option('--force', 'replace a pattern that is there');
  addCalibrationOptions(command).action(() => heads(command));
}

async function heads(command: Command): Promise<void> {
  const flags: { method: keyof typeof METHODS; out?: string; force?: boolean } = command.opts();
  const modelDir = await calibratedModel(command);
  const folder = flags.out === undefined ? join(modelDir, HEAD_PATTERN_FOLDER) : resolve(flags.out);
  const existing = findHeadPattern(folder);
  if (existing !== null && flags.force !== true)
    throw new AppError('startup', `expected --force to replace ${existing}, or --out for another folder`);
  const parent = dirname(folder);
  if (statSync(parent, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new AppError('startup', `cannot write the pattern to ${folder}: ${parent} is no folder`);
  const { sizes } = METHODS[flags.method];
  await calibrate(command, modelDir, sizes, (calibration) => write(calibration, flags.method, folder));
}

/** @throws AppError `startup` for passages that a streaming head would hold completely */
function repeatGates(
  { model, passages }: Calibration,
  onPassage: (done: number) => void,
): Promise<number[][]> {
  const shortest = Math.min(...passages.map(({ length }) => length));
  if (shortest <= SINK + RECENT) {
    const expected = `passages of more than ${SINK + RECENT} tokens`;
    throw new AppError('startup', `--method kvzip: expected ${expected}, got one of ${shortest}`);
  }
  return computeRepeatGates(model, passages, { sink: SINK, recent: RECENT }, onPassage);
}

async function write(calibration: Calibration, method: keyof typeof METHODS, folder: string): Promise<void> {
  const { model, passages, numTokens, textFile } = calibration;
  const gates = await METHODS[method].gates(calibration, (done) => {
    showProgress(`passage ${done} of ${passages.length}`, done === passages.length);
  });
  const origin = {
    method,
    ...METHODS[method].origin,
    text: textFile === null ? 'bundled' : basename(textFile),
    tokens: numTokens,
    passages: passages.length,
    made_by: `coppice ${packageInfo().version}`,
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
  return `layer  gates of the KV heads: high = needs distant tokens, low = near ones\n${lines.join('')}`;
}
