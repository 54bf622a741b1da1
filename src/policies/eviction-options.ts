/** Options that all evicting kv policies share. */
import { z } from 'zod';
import type { Budget } from './contract.ts';

interface Defaults {
  readonly sink?: number;
  readonly recent?: number;
  readonly interval?: number | null;
}

/** Share of the entries that is kept when neither `keep` nor `max_entries` is given. */
const DEFAULT_KEEP = 0.5;

export function evictionOptions({ sink = 4, recent = 32, interval = 128 }: Defaults = {}) {
  return {
    keep: z
      .number()
      .gt(0)
      .max(1)
      .optional()
      .describe(`share of the entries that each KV head keeps (${DEFAULT_KEEP} if max_entries is absent)`),
    max_entries: z.int().min(1).optional().describe('entries that each KV head keeps, instead of keep'),
    sink: z.int().min(0).default(sink).describe('first tokens, always kept, inside the budget'),
    recent: z.int().min(0).default(recent).describe('last tokens, always kept, inside the budget'),
    interval: z
      .int()
      .min(1)
      .nullable()
      .default(interval)
      .describe('decoded tokens between evictions; null = only after the prompt'),
  };
}

interface Fields {
  readonly keep?: number | undefined;
  readonly max_entries?: number | undefined;
}

/** One way to say how many. */
export function checkBudget(
  fields: Fields,
  context: { addIssue(issue: { code: 'custom'; path: string[]; message: string }): void },
): void {
  if (fields.keep === undefined || fields.max_entries === undefined) return;
  context.addIssue({
    code: 'custom',
    path: ['max_entries'],
    message: 'expected keep or max_entries, got both',
  });
}

export function toBudget({ keep, max_entries: maxEntries }: Fields): Budget {
  return maxEntries === undefined ? { keep: keep ?? DEFAULT_KEEP } : { maxEntries };
}
