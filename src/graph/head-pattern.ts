/** DuoAttention pattern files: how much each KV head needs distant tokens, in the format that the authors publish. */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { AppError, errorMessage, invariant } from '../errors.ts';
import type { Architecture } from './architecture.ts';

/** Where a model's own pattern lies in its folder. */
export const HEAD_PATTERN_FOLDER = 'duo-attention';
const GATES_FILE = 'full_attention_heads.tsv';
const CONFIG_FILE = 'config.json';

/** Largest file read; a thousand layers of a hundred KV heads have 2.6 MB. */
const MAX_BYTES = 4 * 2 ** 20;

/** Decimal numbers as numpy writes them, `nan` and `inf` not among them. */
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

const configSchema = z.object({
  sink_size: z.int().nonnegative(),
  recent_size: z.int().positive(),
});

export interface HeadPattern {
  /** [layers][KV heads] in [0, 1]: high = retrieval head; no gates for a layer without attention. */
  readonly gates: readonly (readonly number[])[];
  /** Tokens that streaming heads kept when the gates were found. */
  readonly sink: number;
  readonly recent: number;
}

function unusable(file: string, problem: string): AppError {
  return new AppError('startup', `cannot use ${file}: ${problem}`);
}

/** Null where there is no such file. */
function readBounded(file: string): string | null {
  try {
    const stat = statSync(file, { throwIfNoEntry: false });
    if (stat === undefined) return null;
    if (!stat.isFile()) throw unusable(file, 'expected a file, got something else');
    if (stat.size > MAX_BYTES) throw unusable(file, `expected at most ${MAX_BYTES} bytes, got ${stat.size}`);
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw error instanceof AppError ? error : unusable(file, errorMessage(error));
  }
}

/** Columns of the file: those of every layer, or, for a layer without attention, as many as config.json says. */
function columnsOf({ config, layers }: Architecture): number[] {
  return layers.map(({ attention }) => attention?.kvHeads ?? config.kvHeads);
}

function parseGate(field: string, file: string, line: number): number {
  const gate = NUMBER.test(field) ? Number(field) : Number.NaN;
  if (!Number.isFinite(gate))
    throw unusable(file, `line ${line}: expected a finite number, got ${JSON.stringify(field.slice(0, 40))}`);
  // Training may leave a gate a little outside of [0, 1]; the authors' loader clips, too.
  return Math.min(1, Math.max(0, gate));
}

function parseGates(text: string, file: string, architecture: Architecture): number[][] {
  const columns = columnsOf(architecture);
  const lines = text.replace(/\n$/, '').split(/\r?\n/);
  if (lines.length !== columns.length)
    throw unusable(file, `expected ${columns.length} lines, one a layer, got ${lines.length}`);
  return lines.map((line, layer) => {
    const fields = line.split('\t');
    if (fields.length !== columns[layer])
      throw unusable(
        file,
        `line ${layer + 1}: expected ${columns[layer] ?? 0} gates, one a KV head, got ${fields.length}`,
      );
    const gates = fields.map((field) => parseGate(field.trim(), file, layer + 1));
    return architecture.layers[layer]?.attention == null ? [] : gates;
  });
}

function parseConfig(text: string | null, file: string): z.infer<typeof configSchema> {
  if (text === null) throw unusable(file, 'expected a file, got none');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw unusable(file, `expected JSON: ${errorMessage(error)}`);
  }
  const parsed = configSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw unusable(file, `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'invalid'}`);
}

/**
 * The pattern in `folder`, or null where there is none.
 * @throws AppError `startup` naming the file that does not fit the model or cannot be read
 */
export function readHeadPattern(folder: string, architecture: Architecture): HeadPattern | null {
  const file = join(folder, GATES_FILE);
  const text = readBounded(file);
  if (text === null) return null;
  const gates = parseGates(text, file, architecture);
  const configFile = join(folder, CONFIG_FILE);
  const config = parseConfig(readBounded(configFile), configFile);
  return { gates, sink: config.sink_size, recent: config.recent_size };
}

/** As numpy's `%.18e`; JavaScript writes the exponent without leading zeros. */
function scientific(value: number): string {
  return value.toExponential(18).replace(/e([+-])(\d)$/, 'e$10$2');
}

/** The pattern's file, if `folder` holds one. */
export function findHeadPattern(folder: string): string | null {
  const file = join(folder, GATES_FILE);
  return statSync(file, { throwIfNoEntry: false }) === undefined ? null : file;
}

/**
 * Writes a pattern, with `origin` (how it was made) beside the sizes in its config.json. Makes the folder, but not the
 * folders above it.
 * @throws AppError `startup` naming the folder that cannot be written
 */
export function writeHeadPattern(
  folder: string,
  architecture: Architecture,
  { gates, sink, recent }: HeadPattern,
  origin: Readonly<Record<string, unknown>>,
): void {
  const rows = columnsOf(architecture).map((columns, layer) => {
    const row = gates[layer] ?? [];
    const hasAttention = architecture.layers[layer]?.attention != null;
    invariant(row.length === (hasAttention ? columns : 0), `${row.length} gates in layer ${layer}`);
    // Zeros stand for a layer without attention, so that numpy finds a full matrix.
    return (hasAttention ? row : Array<number>(columns).fill(0)).map(scientific).join('\t');
  });
  const config = { sink_size: sink, recent_size: recent, ...origin };
  try {
    if (statSync(folder, { throwIfNoEntry: false }) === undefined) mkdirSync(folder);
    writeFileSync(join(folder, GATES_FILE), `${rows.join('\n')}\n`);
    writeFileSync(join(folder, CONFIG_FILE), `${JSON.stringify(config, null, 2)}\n`);
  } catch (error) {
    throw new AppError('startup', `cannot write the pattern to ${folder}: ${errorMessage(error)}`, {
      cause: error,
    });
  }
}
