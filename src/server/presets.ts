/** Named pruning settings: those that come with the package and the operator's own, and what requests get by default. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { NO_PRUNING, presetSchema } from '../config-schema.ts';
import type { Config } from '../config.ts';
import { AppError, errorMessage } from '../errors.ts';
import { PACKAGE_ROOT } from '../package-info.ts';
import { parsePruning } from '../policies/index.ts';
import type { ModelShape, Presets, PruningChoice } from '../policies/index.ts';
import { firstMistake } from '../validation.ts';

const PRESETS_DIR = join(PACKAGE_ROOT, 'config', 'presets');

const presetFileSchema = presetSchema.extend({ name: z.string().min(1) });

export interface PruningSettings {
  readonly presets: Presets;
  /** What a request gets that names no pruning; null = nothing is left out. */
  readonly byDefault: PruningChoice | null;
}

/**
 * Those of the package by file name, then the operator's own, which replace those of the same name.
 * @throws AppError `startup` naming the file, or the key if `pruning.default` names none of them
 */
export function readPresets({ presets: own, default: byDefault }: Config['pruning']): Presets {
  const presets = { ...readPackagePresets(), ...own };
  const isKnown =
    typeof byDefault !== 'string' || byDefault === NO_PRUNING || Object.hasOwn(presets, byDefault);
  if (isKnown) return presets;
  const known = [NO_PRUNING, ...Object.keys(presets)].map((name) => JSON.stringify(name)).join(', ');
  throw new AppError(
    'startup',
    `configuration key pruning.default: expected one of ${known}, got ${JSON.stringify(byDefault)}`,
    { param: 'pruning.default' },
  );
}

function readPackagePresets(): Presets {
  try {
    const files = readdirSync(PRESETS_DIR).filter((name) => name.endsWith('.json'));
    return Object.fromEntries(files.sort().map(readPreset));
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('startup', `cannot read the presets in ${PRESETS_DIR}: ${errorMessage(error)}`, {
      cause: error,
    });
  }
}

function readPreset(file: string): [string, Presets[string]] {
  const path = join(PRESETS_DIR, file);
  const parsed = presetFileSchema.safeParse(JSON.parse(readFileSync(path, 'utf8')), { reportInput: true });
  if (parsed.success) {
    const { name, ...preset } = parsed.data;
    return [name, preset];
  }
  const { path: field, message } = firstMistake(parsed.error);
  throw new AppError('startup', `${path}: ${field}: ${message}`);
}

/** @throws AppError `startup` when the model cannot run the default */
export function pruningSettings(
  presets: Presets,
  { default: byDefault }: Config['pruning'],
  shape: ModelShape,
): PruningSettings {
  try {
    const choice = parsePruning(byDefault, presets, shape, 'pruning.default');
    const isNothing = choice === null || Object.keys(choice.families).length === 0;
    return { presets, byDefault: isNothing ? null : choice };
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    throw new AppError('startup', `configuration key ${error.message}`, { param: error.param });
  }
}
