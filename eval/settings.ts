/** The settings that are compared: what the command line names, or a list that covers the families. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { AppError, errorMessage } from '../src/errors.ts';
import { parsePruning } from '../src/policies/index.ts';
import type { ModelShape, Presets, PruningChoice } from '../src/policies/index.ts';

export interface Setting {
  readonly name: string;
  /** As one writes it in a request; null = nothing is left out. */
  readonly pruning: unknown;
  readonly choice: PruningChoice | null;
}

export const DENSE: Setting = { name: 'dense', pruning: null, choice: null };

const listSchema = z.array(z.strictObject({ name: z.string().min(1).optional(), pruning: z.unknown() }));

/** Every family and kind of policy, gentle and harsh. */
function defaultList(): { name: string; pruning: unknown }[] {
  const hard = [0.34, 0.67].map((after) => ({ after, keep: 0.5 }));
  const kv = (policy: string, options: Record<string, number>) => ({ kv: { policy, ...options } });
  return [
    { name: 'lazyllm', pruning: { tokens: 'lazyllm' } },
    {
      name: 'lazyllm hard',
      pruning: { tokens: { policy: 'lazyllm', stages: hard, prefill_only: true } },
    },
    { name: 'random tokens', pruning: { tokens: 'random' } },
    { name: 'duo-attention 50 %', pruning: kv('duo-attention', { sparsity: 0.5 }) },
    { name: 'duo-attention 75 %', pruning: kv('duo-attention', { sparsity: 0.75 }) },
    {
      name: 'lazyllm + duo-attention 50 %',
      pruning: { tokens: 'lazyllm', ...kv('duo-attention', { sparsity: 0.5 }) },
    },
    { name: 'snapkv 50 %', pruning: kv('snapkv', { keep: 0.5 }) },
    { name: 'snapkv 25 %', pruning: kv('snapkv', { keep: 0.25 }) },
    { name: 'h2o 50 %', pruning: kv('h2o', { keep: 0.5 }) },
    { name: 'streaming-llm 25 %', pruning: kv('streaming-llm', { keep: 0.25 }) },
    { name: 'tova 50 %', pruning: kv('tova', { keep: 0.5 }) },
    { name: 'key-norm 50 %', pruning: kv('key-norm', { keep: 0.5 }) },
    { name: 'expected-attention 50 %', pruning: kv('expected-attention', { keep: 0.5 }) },
    { name: 'kvzip 50 %', pruning: kv('kvzip', { keep: 0.5 }) },
    { name: 'random kv 50 %', pruning: kv('random', { keep: 0.5 }) },
    { name: 'quest', pruning: { kv: 'quest' } },
    { name: 'balanced', pruning: 'balanced' },
    { name: 'fast', pruning: 'fast' },
  ];
}

/** The default list, without what this version or this model cannot run: that is told to `warn`. */
export function defaultSettings(
  presets: Presets,
  shape: ModelShape,
  warn: (line: string) => void,
): Setting[] {
  return defaultList().flatMap(({ name, pruning }) => {
    try {
      return [{ name, pruning, choice: parsePruning(pruning, presets, shape) }];
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      warn(`left out: ${name} (${error.message})`);
      return [];
    }
  });
}

export interface NamedValues {
  /** Each a preset's name or a JSON object. */
  readonly values: readonly string[];
  /** A file with a JSON list of `{name?, pruning}`, or null. */
  readonly file: string | null;
}

/** @throws AppError `startup` or `invalid_request` for what cannot be read or run, or two settings of one name */
export function readSettings({ values, file }: NamedValues, presets: Presets, shape: ModelShape): Setting[] {
  const given = [
    ...values.map((value) => ({ name: value, pruning: readValue(value) })),
    ...(file === null ? [] : readList(file)),
  ];
  const settings = given.map(({ name, pruning }) => ({
    name: name ?? (typeof pruning === 'string' ? pruning : JSON.stringify(pruning)),
    pruning,
    choice: parsePruning(pruning, presets, shape),
  }));
  const names = [DENSE, ...settings].map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined)
    throw new AppError('startup', `expected settings of different names, got "${twice}" twice`);
  return settings;
}

function readValue(value: string): unknown {
  if (!value.trimStart().startsWith('{')) return value;
  try {
    return JSON.parse(value);
  } catch (error) {
    throw new AppError('startup', `--pruning: expected a preset's name or JSON, got ${errorMessage(error)}`);
  }
}

function readList(file: string): z.infer<typeof listSchema> {
  try {
    return listSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    const message = `--settings ${file}: expected a JSON list of {name?, pruning}, got ${errorMessage(error)}`;
    throw new AppError('startup', message);
  }
}
