/** Reads the JSON and text files that lie in a model's folder, bounded in size, with errors that name the file. */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { AppError, errorMessage } from '../errors.ts';
import type { z } from 'zod';

/** Largest file read, in bytes; the biggest published tokenizer.json is about a quarter of this. */
const MAX_BYTES = 128 * 1024 * 1024;

export function modelFileError(path: string, problem: string, cause?: unknown): AppError {
  return new AppError('startup', `cannot use ${path}: ${problem}`, { cause });
}

/**
 * The text of `modelDir/name`, or null where there is no such file.
 * @throws AppError `startup` if it cannot be read or is larger than the limit.
 */
export function readModelText(modelDir: string, name: string): string | null {
  const path = join(modelDir, name);
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return null;
  if (!stat.isFile()) throw modelFileError(path, 'expected a file, got something else');
  if (stat.size > MAX_BYTES) {
    throw modelFileError(path, `expected at most ${MAX_BYTES} bytes, got ${stat.size}`);
  }
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw modelFileError(path, errorMessage(error), error);
  }
}

/**
 * `modelDir/name` parsed and checked against `schema`, or null where there is no such file.
 * @throws AppError `startup` naming the file if it is unreadable, no JSON, or of another shape.
 */
export function readModelJson<T>(modelDir: string, name: string, schema: z.ZodType<T>): T | null {
  const text = readModelText(modelDir, name);
  if (text === null) return null;
  const path = join(modelDir, name);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw modelFileError(path, `expected JSON, got: ${errorMessage(error)}`, error);
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw modelFileError(path, `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'wrong shape'}`);
  }
  return parsed.data;
}
