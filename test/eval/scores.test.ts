/** Scores of the evaluation: intervals, groups, and likeness of texts against the reference's own numbers. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readQuestions, readTextLayer, QUESTION_SETS, type Question } from '../../eval/items.ts';
import { judge } from '../../eval/quality.ts';
import { median, perplexity, scoreAnswers, wilson } from '../../eval/scores.ts';
import { similarity } from '../../eval/similarity.ts';

const root = join(import.meta.dirname, '../..');
const reference = JSON.parse(readFileSync(join(root, 'eval/reference-coppice-recall.json'), 'utf8')) as {
  scores: {
    copy: Record<string, { exact: number; similarity: number; n: number }>;
  } & Record<'recall' | 'turns' | 'long', Record<string, [exact: number, n: number]>>;
  outputs: Record<string, string>;
};
const text = readTextLayer(join(root, 'models/coppice-recall'));
const questions = new Map(QUESTION_SETS.map((set) => [set, readQuestions(set, text, Infinity)]));

describe('wilson', () => {
  it('gives published intervals', () => {
    // 81 of 263 (Newcombe 1998), 0 of 20 and 50 of 50.
    const cases = [
      [81, 263, 0.2553, 0.3662],
      [0, 20, 0, 0.1611],
      [50, 50, 0.9287, 1],
    ] as const;
    for (const [successes, n, low, high] of cases) {
      const share = wilson(successes, n);
      expect(share.low).toBeCloseTo(low, 4);
      expect(share.high).toBeCloseTo(high, 4);
      expect(share).toMatchObject({ exact: successes / n, n });
    }
  });

  it('holds the share, and mirrors with it', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 500 }), fc.nat(500), (n, k) => {
        const successes = k % (n + 1);
        const { low, high, exact } = wilson(successes, n);
        const mirrored = wilson(n - successes, n);
        expect(low).toBeLessThanOrEqual(exact + 1e-12);
        expect(high).toBeGreaterThanOrEqual(exact - 1e-12);
        expect(low).toBeCloseTo(1 - mirrored.high, 12);
      }),
    );
  });
});

describe('similarity', () => {
  it('equals difflib', () => {
    const cases = [
      ['', '', 1],
      ['abc', '', 0],
      ['abcd', 'bcde', 0.75],
      ['private Thread currentThread;', 'private volatile Thread currentThread;', 58 / 67],
      // Of equal blocks the first counts, so the order matters.
      ['tide', 'diet', 0.25],
      ['diet', 'tide', 0.5],
      ['naïve 😀', 'naive 😀', 12 / 14],
    ] as const;
    for (const [a, b, ratio] of cases) expect(similarity(a, b)).toBeCloseTo(ratio, 12);
  });

  it('is 1 only for equal texts', () => {
    const word = fc.string({ maxLength: 20 });
    fc.assert(
      fc.property(word, word, (a, b) => {
        expect(similarity(a, a)).toBe(1);
        expect(similarity(a, b) === 1).toBe(a === b);
        expect(similarity(a, b)).toBeGreaterThanOrEqual(0);
      }),
    );
  });
});

describe("the reference's texts", () => {
  const scoresOf = (set: Question['set']) =>
    scoreAnswers(questions.get(set)!.map((question) => judge(question, reference.outputs[question.id]!)));

  it('score as the reference scored them: copies', () => {
    const scores = scoresOf('copy');
    expect(Object.keys(scores).toSorted()).toEqual(Object.keys(reference.scores.copy).toSorted());
    for (const [group, expected] of Object.entries(reference.scores.copy)) {
      expect(scores[group]!.exact).toBeCloseTo(expected.exact, 4);
      expect(scores[group]!.similarity).toBeCloseTo(expected.similarity, 4);
      expect(scores[group]!.n).toBe(expected.n);
    }
  });

  it.each(['recall', 'turns', 'long'] as const)('score as the reference scored them: %s', (set) => {
    const scores = scoresOf(set);
    for (const [group, score] of Object.entries(scores)) {
      const [exact, n] = reference.scores[set][group]!;
      expect(score.exact).toBeCloseTo(exact, 4);
      expect(score.n).toBe(n);
      expect(score.similarity).toBeUndefined();
    }
  });
});

it('trims answers, and copies not at all', () => {
  const [recall, copy] = (['recall', 'copy'] as const).map((set) => questions.get(set)![0]!);
  expect(judge(recall!, ` ${recall!.answer}\n`).isExact).toBe(true);
  expect(judge(copy!, copy!.answer).isExact).toBe(true);
  expect(judge(copy!, ` ${copy!.answer}`).isExact).toBe(false);
});

it('takes the mean of logarithms for perplexity, and the middle for a median', () => {
  expect(perplexity([Math.log(0.5), Math.log(0.125)])).toBeCloseTo(4, 12);
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
});
