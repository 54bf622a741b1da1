/** KVzip (arXiv 2505.23416): what the model attends to while it repeats the prompt; heads share one budget. */
import { z } from 'zod';
import { checkBudget, evicting, evictionOptions } from '../budget-options.ts';
import { definePolicy, type HeadEntries } from '../contract.ts';
import { topEntries } from '../selection.ts';

// Sinks keep a head from ending with nothing; later tokens were not there to be repeated, so there is no interval.
const options = z
  .strictObject({
    ...evictionOptions(),
    sink: z
      .int()
      .min(1)
      .default(4)
      .describe('first tokens, kept while any token can see them, inside the budget'),
  })
  .omit({ interval: true })
  .superRefine(checkBudget);

/** [length] maximum over the KV head's query heads (and the rows of the repetition); protected entries Infinity. */
function scoresOf(entries: HeadEntries): Float32Array {
  const { length, numSinks, numRecent } = entries;
  return entries.attention().map((score, i) => (i < numSinks || i >= length - numRecent ? Infinity : score));
}

/** Of the highest scores of all heads together, how many lie in each head; equal ones: earlier heads first. */
function shareOut(scores: readonly Float32Array[], count: number): number[] {
  const sorted = new Float32Array(scores.reduce((sum, { length }) => sum + length, 0));
  scores.reduce((offset, head) => (sorted.set(head, offset), offset + head.length), 0);
  sorted.sort();
  const threshold = sorted[Math.max(0, sorted.length - count)] ?? 0;
  const above = scores.map((head) => head.reduce((sum, score) => sum + Number(score > threshold), 0));
  let left = Math.min(count, sorted.length) - above.reduce((sum, number) => sum + number, 0);
  return scores.map((head, i) => {
    const equal = Math.min(
      left,
      head.reduce((sum, score) => sum + Number(score === threshold), 0),
    );
    left -= equal;
    return (above[i] ?? 0) + equal;
  });
}

export const kvzip = definePolicy({
  name: 'kvzip',
  family: 'kv',
  summary: 'of all heads together, the entries stay that the model needs to repeat the prompt',
  paper: '2505.23416',
  options,
  examples: ['kvzip', { policy: 'kvzip', max_entries: 24, sink: 2, recent: 4 }],
  needs: ['repeated-attention'],
  create: (fields) =>
    evicting(fields, {
      observes: 'repeated',
      select: (entries, count) => topEntries(scoresOf(entries), count, entries),
      allot: (heads, average) => shareOut(heads.map(scoresOf), average * heads.length),
    }),
});
