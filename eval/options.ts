/** The command line of `npm run eval`. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { AppError, errorMessage } from '../src/errors.ts';
import { SETS, type SetName } from './items.ts';

export interface CommandOptions {
  readonly model: string;
  readonly precision: 'int8' | 'fp32';
  readonly threads: number;
  /** Presets or JSON objects; with `settingsFile` null and none here, the default list. */
  readonly pruning: readonly string[];
  readonly settingsFile: string | null;
  readonly sets: readonly SetName[];
  /** Infinity = all. */
  readonly limit: number;
  readonly costItems: number;
  readonly out: string;
}

const root = join(import.meta.dirname, '..');

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        model: { type: 'string', default: join(root, 'models', 'coppice-recall') },
        precision: { type: 'string', default: 'int8' },
        threads: { type: 'string', default: '2' },
        pruning: { type: 'string', multiple: true, default: [] },
        settings: { type: 'string' },
        sets: { type: 'string', default: SETS.join(',') },
        limit: { type: 'string' },
        'cost-items': { type: 'string', default: '3' },
        out: { type: 'string', default: join(root, 'eval', 'results', 'latest.json') },
      },
    }).values;
  } catch (error) {
    throw new AppError('startup', errorMessage(error));
  }
}

/** @throws AppError `startup` naming the flag */
export function readOptions(args: readonly string[]): CommandOptions {
  const values = parse(args);
  const { precision } = values;
  if (precision !== 'int8' && precision !== 'fp32')
    throw new AppError('startup', `--precision: expected int8 or fp32, got ${precision}`);
  return {
    model: values.model,
    precision,
    threads: count('--threads', values.threads, 1),
    pruning: values.pruning,
    settingsFile: values.settings ?? null,
    sets: values.sets.split(',').map(setName),
    limit: values.limit === undefined ? Infinity : count('--limit', values.limit, 1),
    costItems: count('--cost-items', values['cost-items'], 0),
    out: values.out,
  };
}

function setName(text: string): SetName {
  const name = SETS.find((set) => set === text);
  if (name === undefined)
    throw new AppError('startup', `--sets: expected some of ${SETS.join(',')}, got "${text}"`);
  return name;
}

function count(flag: string, text: string, minimum: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= minimum))
    throw new AppError('startup', `${flag}: expected a whole number of at least ${minimum}, got "${text}"`);
  return value;
}
