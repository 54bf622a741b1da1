/** The `prompt` of completions in its four forms, and lists of token ids; checked up to the first mistake only. */
import { z } from 'zod';
import { describe } from '../../validation.ts';

export type PromptField = string | string[] | number[] | number[][];

/** Most prompts in one request. */
const MAX_PROMPTS = 2048;

interface ListMistake {
  readonly path: number[];
  readonly message: string;
}

function isTokenId(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function findMistake(value: unknown): ListMistake | null {
  if (typeof value === 'string') return null;
  if (!Array.isArray(value) || value.length === 0) {
    return { path: [], message: `expected text, token ids, or a list of either, got ${describe(value)}` };
  }
  const items: unknown[] = value;
  if (isTokenId(items[0])) return findBadId(items, []);
  if (items.length > MAX_PROMPTS)
    return { path: [], message: `expected at most ${MAX_PROMPTS} prompts, got ${items.length}` };
  const isText = typeof items[0] === 'string';
  for (const [i, item] of items.entries()) {
    if (isText && typeof item === 'string') continue;
    if (isText || !Array.isArray(item) || item.length === 0) {
      const expected = isText ? 'text' : 'a prompt (text or a list of token ids)';
      return { path: [i], message: `expected ${expected}, got ${describe(item)}` };
    }
    const mistake = findBadId(item, [i]);
    if (mistake !== null) return mistake;
  }
  return null;
}

function findBadId(ids: readonly unknown[], path: number[]): ListMistake | null {
  const index = ids.findIndex((id) => !isTokenId(id));
  return index < 0
    ? null
    : { path: [...path, index], message: `expected a token id, got ${describe(ids[index])}` };
}

function checked<T>(find: (value: unknown) => ListMistake | null) {
  return z.unknown().transform((value, context): T => {
    const mistake = find(value);
    if (mistake === null) return value as T;
    context.addIssue({ code: 'custom', path: mistake.path, message: mistake.message });
    return z.NEVER;
  });
}

/** For the OpenAPI document: what the checks above let pass. */
const idsSchema = {
  type: 'array',
  items: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
} as const;
const listSchema = (items: object) => ({ type: 'array', items, minItems: 1, maxItems: MAX_PROMPTS });

export const promptField = checked<PromptField>(findMistake).meta({
  description: 'text or token ids, or a list of either; each prompt has its own choices',
  anyOf: [
    { type: 'string' },
    listSchema({ type: 'string' }),
    { ...idsSchema, minItems: 1 },
    listSchema({ ...idsSchema, minItems: 1 }),
  ],
});

export const tokenList = checked<number[]>((value) =>
  Array.isArray(value)
    ? findBadId(value, [])
    : { path: [], message: `expected a list of token ids, got ${describe(value)}` },
).meta(idsSchema);
