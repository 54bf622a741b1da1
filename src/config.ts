/** The configuration: defaults < file < environment < flags; parsed once, strict, frozen. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { AppError, errorMessage } from './errors.ts';
import { describe, firstMistake } from './validation.ts';

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** A number of bytes: an integer, or text such as "16MiB". */
function bytes(minimum: number) {
  return z
    .union([z.int(), z.string()], { error: 'expected a number of bytes such as 1048576 or "1MiB"' })
    .transform((value, context) => {
      const match = typeof value === 'string' ? /^(\d+) ?([KMGT]iB)?$/.exec(value) : null;
      const size = match ? Number(match[1]) * (UNITS[match[2] ?? ''] ?? Number.NaN) : value;
      if (typeof size === 'number' && Number.isSafeInteger(size) && size >= minimum) return size;
      context.addIssue({
        code: 'custom',
        message: `expected at least ${minimum} bytes, as an integer or text such as "16MiB", got ${describe(value)}`,
      });
      return z.NEVER;
    });
}

/** The setting that leaves nothing out; no preset may be called so. */
export const NO_PRUNING = 'none';

/** Safe in headers, logs and labels of metrics. */
const PRESET_NAME = /^[A-Za-z0-9][\w.-]{0,63}$/;

/** A named value of the `pruning` field; what is in it is checked against the model. */
export const presetSchema = z.strictObject({
  summary: z.string().default(''),
  pruning: z.record(z.string(), z.unknown()),
});

const DEFAULT_EXPECTED = "expected a preset's name or an object";

const milliseconds = (minimum: number) =>
  z
    .int()
    .min(minimum)
    .max(2 ** 31 - 1);

/** What requests get that do not say. */
const pruningDefault = z.union(
  [z.string().regex(PRESET_NAME, DEFAULT_EXPECTED), presetSchema.shape.pruning],
  DEFAULT_EXPECTED,
);

/** File keys are snake_case; a nested key `queue.max_running` is `--queue-max-running` and `COPPICE_QUEUE_MAX_RUNNING`. */
const configSchema = z.strictObject({
  host: z.string().min(1).default('127.0.0.1').describe('address to listen on'),
  port: z.int().min(0).max(65535).default(8000).describe('TCP port; 0 picks a free one'),
  model: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe('model folder or hub id (default: the demo model)'),
  precision: z.enum(['int8', 'fp32']).default('int8').describe('arithmetic of the linear layers'),
  threads: z
    .int()
    .min(1)
    .max(1024)
    .nullable()
    .default(null)
    .describe('compute threads (default: one a core)'),
  cache_dir: z.string().min(1).nullable().default(null).describe('folder for built graphs and pulled models'),
  limits: z
    .strictObject({
      body_bytes: bytes(1)
        .default(16 * 2 ** 20)
        .describe('largest request body'),
    })
    .prefault({}),
  queue: z
    .strictObject({ max_running: z.int().min(1).default(64).describe('sequences that run at once') })
    .prefault({}),
  kv: z
    .strictObject({
      max_bytes: bytes(1)
        .nullable()
        .default(null)
        .describe('KV memory (default: a quarter of what there is)'),
    })
    .prefault({}),
  prefix_cache: z
    .strictObject({
      max_bytes: bytes(0).nullable().default(null).describe('part of it for prefix reuse; 0 = off'),
    })
    .prefault({}),
  sse: z
    .strictObject({ ping_ms: milliseconds(1).default(10_000).describe('time between keep-alive comments') })
    .prefault({}),
  shutdown: z
    .strictObject({ timeout_ms: milliseconds(0).default(30_000).describe('time for running work to end') })
    .prefault({}),
  pruning: z
    .strictObject({
      default: pruningDefault
        .default(NO_PRUNING)
        .describe('what requests leave out that do not say: a preset, or an object as in requests'),
      presets: z
        .record(
          z
            .string()
            .regex(PRESET_NAME, 'expected a name of up to 64 letters, digits and "._-"')
            .refine((name) => name !== NO_PRUNING, `expected another name than "${NO_PRUNING}"`),
          presetSchema,
        )
        .default({})
        .describe('presets of your own: {"<name>": {"summary": "...", "pruning": {...}}}'),
    })
    .prefault({}),
  models: z
    .record(
      z.string().min(1),
      z.strictObject({ pruning: z.strictObject({ default: pruningDefault.optional() }).optional() }),
    )
    .default({})
    .describe(
      'by the name of a model, what goes before the above: {"<name>": {"pruning": {"default": "fast"}}}',
    ),
  policies: z
    .strictObject({
      duo_attention: z
        .strictObject({
          pattern: z
            .string()
            .min(1)
            .nullable()
            .default(null)
            .describe('folder with the DuoAttention pattern (default: duo-attention in the model folder)'),
        })
        .prefault({}),
    })
    .prefault({}),
  metrics: z
    .strictObject({
      compat: z
        .array(z.enum(['vllm']))
        .default([])
        .describe('servers whose names of metrics are shown as well: "vllm"'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z
        .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
        .default('info')
        .describe('least severe level that is written'),
      prompts: z.boolean().default(false).describe('write prompt and completion text into the log'),
    })
    .prefault({}),
});

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
  throw new AppError('startup', `configuration key ${path}: ${message} (${origin})`, { param: path });
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
