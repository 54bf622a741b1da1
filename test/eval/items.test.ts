/** The evaluation sets as token ids: the lengths that their files state, limits, and cuts that can be forced. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { forcedContinuation, forcedSampling } from '../../eval/forcing.ts';
import { QUESTION_SETS, readPassages, readQuestions, readTextLayer } from '../../eval/items.ts';

const root = join(import.meta.dirname, '../..');
const text = readTextLayer(join(root, 'models/coppice-recall'));

describe('questions', () => {
  it.each(QUESTION_SETS)('of %s have the number of tokens that was counted when they were made', (set) => {
    const folder = set === 'copy' ? 'copy' : 'recall';
    const lines = readFileSync(join(root, `eval/${folder}/${set}.jsonl`), 'utf8')
      .trim()
      .split('\n');
    const counted = lines.map((line) => JSON.parse(line) as { id: string; context_tokens: number });
    const questions = readQuestions(set, text, Infinity);
    expect(questions.map(({ id, promptIds }) => [id, promptIds.length])).toEqual(
      counted.map((line) => [line.id, line.context_tokens]),
    );
  });

  it('are limited in each length, and in each task and kind of text', () => {
    const groups = (set: 'recall' | 'copy') => readQuestions(set, text, 2).map((question) => question.groups);
    expect(groups('recall')).toEqual(
      ['256', '512', '1024', '2048'].flatMap((length) => [[length], [length]]),
    );
    const kinds = groups('copy').map(([task, kind]) => `${task}: ${kind}`);
    expect(kinds.length).toBe(8);
    expect(new Set(kinds)).toEqual(
      new Set(['copy: copy/prose', 'copy: copy/code', 'edit: edit/prose', 'edit: edit/code']),
    );
  });
});

describe('passages', () => {
  const passages = readPassages(text, Infinity);

  it('begin with BOS, as the reference scored them', () => {
    expect(passages.length).toBe(24);
    expect(passages.every(({ ids }) => ids.length === 2048 && ids[0] === 0)).toBe(true);
    expect(readPassages(text, 3).map(({ id }) => id)).toEqual(passages.slice(0, 3).map(({ id }) => id));
  });

  it('are cut into a prompt and the distinct tokens behind it', () => {
    const ids = Int32Array.from([5, 6, 7, 5, 8, 7, 9]);
    const at = (start: number) => forcedContinuation(ids, start);
    expect(at(1)).toMatchObject({ promptIds: Int32Array.of(5), maxTokens: 4 });
    expect(at(1).sampling?.logitBias.map(([id]) => id)).toEqual([6, 7, 5, 8]);
    expect(at(3).maxTokens).toBe(4);
    expect(at(6).maxTokens).toBe(1);
    expect(() => at(7)).toThrow('a cut at 7');
    expect(() => forcedSampling(Int32Array.of(1, 2, 1))).toThrow('forced tokens');
  });
});
