/** Reads a JSON body within its limits. */
import { AppError } from '../errors.ts';
import type { AppContext } from './context.ts';

/** Names the fields of a body that no one reads, so that a typo shows. */
const IGNORED_FIELDS_HEADER = 'x-coppice-ignored-fields';
const MAX_HEADER_CHARACTERS = 1024;

/** Most values outside of token lists: a body of millions of tiny wrong values would cost a message for each. */
const MAX_VALUES = 100_000;
/** Their own schemas stop at the first mistake. */
const LIST_FIELDS: ReadonlySet<string> = new Set(['prompt', 'tokens']);

/**
 * The JSON object that a request carries.
 * @throws AppError `unsupported_media_type`, `body_too_large`, `invalid_request`
 */
export async function readBody(c: AppContext, limitBytes: number): Promise<Record<string, unknown>> {
  return parseJson(await readText(c, limitBytes));
}

/** Says in the reply which fields no one read. */
export function nameIgnoredFields(c: AppContext, names: readonly string[]): void {
  if (names.length > 0) c.header(IGNORED_FIELDS_HEADER, listNames(names));
}

async function readText(c: AppContext, limitBytes: number): Promise<string> {
  const mediaType = (c.req.header('content-type') ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';
  if (!/^application\/(?:json|[\w.+-]+\+json)$/.test(mediaType)) {
    throw new AppError(
      'unsupported_media_type',
      `expected content-type application/json, got "${mediaType}"`,
    );
  }
  const tooLarge = () => new AppError('body_too_large', `expected a body of at most ${limitBytes} bytes`);
  if (Number(c.req.header('content-length') ?? 0) > limitBytes) throw tooLarge();
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let text = '';
  let sizeBytes = 0;
  const body: AsyncIterable<Uint8Array> | null = c.req.raw.body;
  try {
    for await (const chunk of body ?? []) {
      sizeBytes += chunk.byteLength;
      if (sizeBytes > limitBytes) throw tooLarge();
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('invalid_request', 'expected a complete body in UTF-8', { cause: error });
  }
}

/** The JSON object in a body or frame, if it is not made to hurt. @throws AppError `invalid_request` */
export function parseJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new AppError('invalid_request', 'expected a body of valid JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new AppError('invalid_request', 'expected a JSON object as the body');
  }
  const body = value as Record<string, unknown>;
  const oversized = findOversized(body);
  if (oversized !== null) {
    throw new AppError('invalid_request', `${oversized}: expected at most ${MAX_VALUES} values`, {
      param: oversized,
    });
  }
  return body;
}

/** The first top-level field with too many values inside; walks without recursion, since nesting may be deep. */
function findOversized(body: Record<string, unknown>): string | null {
  for (const [name, field] of Object.entries(body)) {
    if (LIST_FIELDS.has(name)) continue;
    const stack = [field];
    for (let numValues = 0; stack.length > 0;) {
      const value = stack.pop();
      if (typeof value !== 'object' || value === null) continue;
      const children: unknown[] = Object.values(value);
      numValues += children.length;
      if (numValues > MAX_VALUES) return name;
      for (const child of children) stack.push(child);
    }
  }
  return null;
}

/** Header-safe: names come from the client and may hold anything. */
function listNames(names: readonly string[]): string {
  const text = names
    .map((name) => encodeURIComponent(name.slice(0, MAX_HEADER_CHARACTERS).toWellFormed()))
    .join(', ');
  return text.length <= MAX_HEADER_CHARACTERS ? text : `${text.slice(0, MAX_HEADER_CHARACTERS - 3)}...`;
}
