/** From single answers to scores: shares with their intervals, and perplexity. */

/** 97.5 % quantile of the normal distribution. */
const Z = 1.959964;

/** Share of exact answers among `n`, with its 95 % interval. */
export interface Share {
  readonly exact: number;
  readonly low: number;
  readonly high: number;
  readonly n: number;
}

/** Wilson's 95 % interval of `successes` among `n` >= 1; within [0, 1] also at the ends. */
export function wilson(successes: number, n: number): Share {
  const p = successes / n;
  const middle = (p + (Z * Z) / (2 * n)) / (1 + (Z * Z) / n);
  const half = ((Z / n) * Math.sqrt(n * p * (1 - p) + (Z * Z) / 4)) / (1 + (Z * Z) / n);
  return { exact: p, low: Math.max(0, middle - half), high: Math.min(1, middle + half), n };
}

/** One answered item. `groups`: the rows of the score table that it counts in. */
export interface Answer {
  readonly groups: readonly string[];
  readonly isExact: boolean;
  /** In [0, 1]; null where only exact answers count. */
  readonly similarity: number | null;
}

export type GroupScore = Share & { readonly similarity?: number };

/** Scores by group, in order of appearance, then of `all`. */
export function scoreAnswers(answers: readonly Answer[]): Record<string, GroupScore> {
  const groups = [...new Set(answers.flatMap((answer) => answer.groups)), 'all'];
  return Object.fromEntries(
    groups.map((group) => {
      const members = answers.filter((answer) => group === 'all' || answer.groups.includes(group));
      const share = wilson(members.filter((answer) => answer.isExact).length, members.length);
      const similarities = members.flatMap((answer) => answer.similarity ?? []);
      return [
        group,
        similarities.length === 0 ? share : { ...share, similarity: mean(similarities) },
      ] as const;
    }),
  );
}

/** exp of the mean of -logprob (natural logarithms). */
export function perplexity(logprobs: readonly number[]): number {
  return Math.exp(-mean(logprobs));
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[sorted.length >> 1]!;
  return sorted.length % 2 === 1 ? upper : (sorted[(sorted.length >> 1) - 1]! + upper) / 2;
}
