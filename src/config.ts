/** The configuration: defaults < file < environment < flags; parsed once, strict, frozen. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { configSchema } from './config-schema.ts';
import { AppError, errorMessage } from './errors.ts';
import { firstMistake } from './validation.ts';

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;
export type Config = DeepReadonly<z.infer<typeof configSchema>>;

/** One leaf of the configuration. */
export interface ConfigKey {
  /** Path in the file, such as `queue.max_running`. */
  readonly path: string;
  /** Flag without its dashes, such as `queue-max-running`. */
  readonly flag: string;
  readonly variable: string;
  readonly description: string;
  /**
   * How text from a flag or variable is read: as it stands, as the number, boolean or null that it spells, as the
   * JSON object that it begins, or as items between commas.
   */
  readonly kind: 'text' | 'boolean' | 'value' | 'json' | 'list';
}

function leaves(shape: z.ZodRawShape, prefix: readonly string[] = []): ConfigKey[] {
  return Object.entries(shape).flatMap(([name, field]) => {
    const path = [...prefix, name];
    const inner = unwrap(field);
    if (inner instanceof z.ZodObject) return leaves(inner.shape, path);
    const joined = path.join('_');
    return {
      path: path.join('.'),
      flag: joined.replaceAll('_', '-'),
      variable: `COPPICE_${joined.toUpperCase()}`,
      description: (field as z.ZodType).description ?? '',
      kind: kindOf(inner),
    };
  });
}

function kindOf(field: z.core.$ZodType): ConfigKey['kind'] {
  if (field instanceof z.ZodString) return 'text';
  if (field instanceof z.ZodBoolean) return 'boolean';
  if (field instanceof z.ZodArray) return 'list';
  return field instanceof z.ZodUnion || field instanceof z.ZodRecord ? 'json' : 'value';
}

function unwrap(field: z.core.$ZodType): z.core.$ZodType {
  const isWrapper =
    field instanceof z.ZodPrefault || field instanceof z.ZodDefault || field instanceof z.ZodNullable;
  return isWrapper ? unwrap(field.unwrap()) : field;
}

export const configKeys: readonly ConfigKey[] = leaves(configSchema.shape);

/** Names the configuration file when `--config` does not. */
const CONFIG_FILE_VARIABLE = 'COPPICE_CONFIG';

export interface ConfigSources {
  /** Path of a JSON file, or null. */
  readonly file?: string | null;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** By configuration path; values as typed on the command line. */
  readonly flags?: Readonly<Record<string, string | boolean | undefined>>;
}

/** @throws AppError `startup` that names the key and where it was set. */
export function loadConfig(sources: ConfigSources = {}): Config {
  const env = sources.env ?? {};
  const file = sources.file ?? (env[CONFIG_FILE_VARIABLE] || null);
  const merged = file === null ? {} : readConfigFile(file);
  const origins = new Map<string, string>();
  mergeEnvironment(merged, origins, env);
  for (const key of configKeys) {
    const value = sources.flags?.[key.path];
    if (value === undefined) continue;
    set(merged, key.path, fromText(key, value));
    origins.set(key.path, `flag --${key.flag}`);
  }
  const parsed = configSchema.safeParse(merged, { reportInput: true });
  if (parsed.success) return deepFreeze(parsed.data);
  const { path, message } = firstMistake(parsed.error);
  const origin = origins.get(path.replace(/\[\d+\]$/, '')) ?? file ?? 'default';
  const shown = path.startsWith('api_keys') ? message.replace(/, got .*$/s, '') : message;
  throw new AppError('startup', `configuration key ${path}: ${shown} (${origin})`, { param: path });
}

const REDACTED = '***';

/** The configuration as logs may show it: without keys, and without passwords in URLs. */
export function printableConfig(config: Config): Config {
  const { api_keys: keys, tracing } = config;
  const endpoint = tracing.otlp_endpoint?.replace(/^(https?:\/\/)[^/?#]*@/, `$1${REDACTED}@`) ?? null;
  return {
    ...config,
    api_keys: keys.map(() => REDACTED),
    tracing: { ...tracing, otlp_endpoint: endpoint },
  };
}

interface Tree {
  [name: string]: unknown;
}

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function readConfigFile(file: string): Tree {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new AppError('startup', `cannot read the configuration file ${file}: ${errorMessage(error)}`);
  }
  if (!isTree(value)) throw new AppError('startup', `expected an object in the configuration file ${file}`);
  return value;
}

/** An empty variable counts as unset: compose files and charts pass those for values that are not given. */
function mergeEnvironment(
  into: Tree,
  origins: Map<string, string>,
  env: NonNullable<ConfigSources['env']>,
): void {
  const byVariable = new Map(configKeys.map((key) => [key.variable, key]));
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith('COPPICE_') || name === CONFIG_FILE_VARIABLE || value === undefined || value === '')
      continue;
    const key = byVariable.get(name);
    if (key === undefined)
      throw new AppError('startup', `unknown configuration key: environment variable ${name}`);
    set(into, key.path, fromText(key, value));
    origins.set(key.path, `environment variable ${name}`);
  }
}

/** What is no number, boolean, null or object stays text, for the schema to judge. */
function fromText(key: ConfigKey, value: string | boolean): unknown {
  if (typeof value === 'boolean' || key.kind === 'text') return value;
  if (key.kind === 'list') return value.split(',').map((item) => item.trim());
  if (key.kind === 'json') return value.trimStart().startsWith('{') ? parseObject(value) : value;
  if (/^-?\d+(\.\d+)?$/.test(value)) return Number(value);
  const words: Readonly<Record<string, unknown>> = { true: true, false: false, null: null };
  return Object.hasOwn(words, value) ? words[value] : value;
}

function parseObject(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** A value in the way of a nested key is left for the schema to refuse. */
function set(into: Tree, path: string, value: unknown): void {
  const names = path.split('.');
  const last = names.pop();
  let node = into;
  for (const name of names) {
    const child = node[name] ?? {};
    if (!isTree(child)) return;
    node[name] = child;
    node = child;
  }
  if (last !== undefined) node[last] = value;
}

function deepFreeze<T>(value: T): DeepReadonly<T> {
  if (typeof value === 'object' && value !== null) {
    for (const child of Object.values(value)) deepFreeze(child);
    Object.freeze(value);
  }
  return value as DeepReadonly<T>;
}
