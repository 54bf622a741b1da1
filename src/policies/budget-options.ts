/** Options that kv policies share: how many entries are kept or read, what is protected, and when. */
import { z } from 'zod';
import type { Budget, EvictingPolicy } from './contract.ts';

/** Share of the entries when neither `keep` nor `max_entries` is given. */
const DEFAULT_KEEP = 0.5;

/** What a budget counts: entries that each KV head `keeps`, or `reads` at each step. */
export function budgetOptions(verb: 'keeps' | 'reads') {
  return {
    keep: z
      .number()
      .gt(0)
      .max(1)
      .optional()
      .describe(`share of the entries that each KV head ${verb} (${DEFAULT_KEEP} if max_entries is absent)`),
    max_entries: z.int().min(1).optional().describe(`entries that each KV head ${verb}, instead of keep`),
  };
}

interface Defaults {
  readonly sink?: number;
  readonly recent?: number;
  readonly interval?: number | null;
}

/** Options that evicting policies share. */
export function evictionOptions({ sink = 4, recent = 32, interval = 128 }: Defaults = {}) {
  return {
    ...budgetOptions('keeps'),
    sink: z
      .int()
      .min(0)
      .default(sink)
      .describe('first tokens, kept while any token can see them, inside the budget'),
    recent: z
      .int()
      .min(0)
      .default(recent)
      .describe('last tokens, kept while any token can see them, inside the budget'),
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
  readonly sink?: number;
  readonly recent?: number;
  readonly observation_window?: number;
}

interface IssueSink {
  addIssue(issue: { code: 'custom'; path: string[]; input: unknown; message: string }): void;
}

/**
 * One way to say how many, and room for what is protected. A share can be checked against a prompt only: where it
 * leaves less room than the protected entries need, the engine decides.
 */
export function checkBudget(fields: Fields, context: IssueSink): void {
  const { sink = 0, recent = 0, observation_window: window = 0 } = fields;
  const isWindow = window > recent;
  checkLeast(fields, context, sink + Math.max(recent, window), [
    ...(sink > 0 ? ['sink'] : []),
    ...(isWindow ? ['observation_window'] : recent > 0 ? ['recent'] : []),
  ]);
}

/** As {@link checkBudget}, where `max_entries` must not be below `least`, the sum of `parts`. */
export function checkLeast(
  fields: Fields,
  context: IssueSink,
  least: number,
  parts: readonly string[],
): void {
  const { keep, max_entries: maxEntries } = fields;
  if (maxEntries === undefined) return;
  const refuse = (message: string): void => {
    context.addIssue({ code: 'custom', path: ['max_entries'], input: maxEntries, message });
  };
  if (keep !== undefined) refuse('expected keep or max_entries, got both');
  else if (maxEntries < least) refuse(`expected at least ${least} (${parts.join(' + ')}), got ${maxEntries}`);
}

export function toBudget({ keep, max_entries: maxEntries }: Fields): Budget {
  return maxEntries === undefined ? { keep: keep ?? DEFAULT_KEEP } : { maxEntries };
}

interface EvictionFields extends Fields {
  readonly sink: number;
  readonly recent?: number;
  readonly interval?: number | null;
}

/** An evicting policy from the shared options and what is its own; it observes nothing unless it says so. */
export function evicting(
  { sink, recent = 0, interval = null, ...budget }: EvictionFields,
  own: Pick<EvictingPolicy, 'select'> & Partial<EvictingPolicy>,
): EvictingPolicy {
  return {
    kind: 'evict',
    budget: toBudget(budget),
    sink,
    recent,
    interval,
    observes: 'none',
    window: 0,
    needsQueries: false,
    ...own,
  };
}
