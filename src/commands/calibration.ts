/** What commands that measure a model on a text share: flags, the text cut into passages, the model in this thread. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { AppError, errorMessage } from '../errors.ts';
import { Model } from '../runtime/model.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { describe } from '../validation.ts';
import { PACKAGE_ROOT } from '../package-info.ts';
import { findModel } from './load.ts';
import { addConfigOptions, cacheFolder, readConfig } from './options.ts';
import { showProgress } from './progress.ts';

const CONFIG_PATHS = ['model', 'precision', 'threads', 'cache_dir'];
const BUNDLED_TEXT = join(PACKAGE_ROOT, 'config', 'calibration.txt');

export interface CalibrationSizes {
  /** Tokens of text that are read unless `--tokens` says otherwise, if there are so many. */
  readonly tokens: number;
  /** Most tokens that go through the model together. */
  readonly passageTokens: number;
  /** How often a passage is read behind itself: all readings stay within the model's context. */
  readonly numReadings: number;
}

export interface Calibration {
  readonly model: Model;
  readonly modelDir: string;
  /** Token ids, with what the tokenizer puts before a text. */
  readonly passages: readonly Int32Array[];
  /** Without what the tokenizer adds. */
  readonly numTokens: number;
  /** The file's path, or null for the bundled text. */
  readonly textFile: string | null;
}

export function addCalibrationOptions(command: Command): Command {
  addConfigOptions(command, CONFIG_PATHS);
  return command
    .option('--text <file>', 'text to measure on (default: some pages of a novel)')
    .option('--tokens <number>', 'how much of it to read');
}

/** A flag's positive whole number, or null if it is absent. @throws AppError `startup` naming the flag */
export function wholeNumber(value: string | undefined, flag: string, most = Infinity): number | null {
  if (value === undefined) return null;
  const number = /^\d+$/.test(value) ? Number(value) : 0;
  if (number >= 1 && number <= most) return number;
  const range = most === Infinity ? 'above 0' : `from 1 to ${most}`;
  throw new AppError('startup', `--${flag}: expected a whole number ${range}, got ${describe(value)}`);
}

function readText(file: string | null): string {
  try {
    const text = readFileSync(file ?? BUNDLED_TEXT, 'utf8');
    // The first line of the bundled text says where it is from.
    return file === null ? text.slice(text.indexOf('\n') + 1) : text;
  } catch (error) {
    throw new AppError('startup', `cannot read the text ${file ?? BUNDLED_TEXT}: ${errorMessage(error)}`);
  }
}

/** Pieces of nearly equal length, each at most `most` ids and behind `prefixIds`. */
export function cutPassages(
  ids: readonly number[],
  prefixIds: readonly number[],
  most: number,
): Int32Array[] {
  const count = Math.ceil(ids.length / Math.max(1, most - prefixIds.length));
  const border = (i: number): number => Math.floor((i * ids.length) / count);
  return Array.from({ length: count }, (_, i) =>
    Int32Array.from([...prefixIds, ...ids.slice(border(i), border(i + 1))]),
  );
}

/** Loads model and text, hands them to `measure`, and closes the model. @throws AppError `startup` */
export async function calibrate(
  command: Command,
  modelDir: string,
  sizes: CalibrationSizes,
  measure: (calibration: Calibration) => Promise<void>,
): Promise<void> {
  const config = readConfig(command);
  const flags: { text?: string; tokens?: string } = command.opts();
  const wanted = wholeNumber(flags.tokens, 'tokens');
  const textFile = flags.text ?? null;
  const tokenizer = Tokenizer.load(modelDir);
  const text = tokenizer.encode(readText(textFile), { addSpecialTokens: false });
  if (text.length < (wanted ?? 1)) {
    const name = textFile ?? 'the bundled text';
    throw new AppError('startup', `expected at least ${wanted ?? 1} tokens in ${name}, got ${text.length}`);
  }
  const ids = text.slice(0, wanted ?? sizes.tokens);
  const model = await Model.load({
    modelDir,
    precision: config.precision,
    threads: config.threads ?? availableParallelism(),
    cacheDir: cacheFolder(config),
    onProgress: showProgress,
  });
  try {
    const most = Math.min(sizes.passageTokens, Math.floor(model.info.contextLength / sizes.numReadings));
    const passages = cutPassages(ids, tokenizer.prefixIds, most);
    await measure({ model, modelDir, passages, numTokens: ids.length, textFile });
  } finally {
    await model.close();
  }
}

/** The folder of the model that the flags name. */
export function calibratedModel(command: Command): Promise<string> {
  return findModel(readConfig(command));
}
