import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { reasoningStage, ReasoningSplitter } from '../../src/text/reasoning.ts';

function split(
  pieces: readonly string[],
  { isOpen = false, hidden = [] as string[] } = {},
): { reasoning: string; content: string } {
  const splitter = new ReasoningSplitter({ isOpen, hidden: new Set(hidden) });
  const result = { reasoning: '', content: '' };
  for (const { type, text } of [...pieces.flatMap((piece) => splitter.push(piece)), ...splitter.finish()]) {
    expect(text).not.toBe('');
    result[type] += text;
  }
  return result;
}

const TAGS = ['<think>', '</think>'];

describe.each([
  { text: '<think>\nHm, 1 < 2.\n\nSo.\n</think>\n\nYes. ', reasoning: 'Hm, 1 < 2.\n\nSo.', content: 'Yes. ' },
  { text: 'Hm\n</think>\nYes', isOpen: true, reasoning: 'Hm', content: 'Yes' },
  { text: '<think>\nHm</think>Yes', isOpen: true, reasoning: 'Hm', content: 'Yes' },
  { text: '<think>Hm, and so on \n', reasoning: 'Hm, and so on', content: '' },
  { text: ' <think></think>\n', reasoning: '', content: '' },
  { text: ' \nJust text\n', reasoning: '', content: ' \nJust text\n' },
  { text: 'First <think> then</think> last', reasoning: 'then', content: 'First last' },
  { text: '<think>a</think>b <think>c</think> d', reasoning: 'a', content: 'b <think>c</think> d' },
  { text: '<think>a</think>b <think>c</think> d', reasoning: 'a', content: 'b c d', hidden: TAGS },
  { text: '<think>a <think> b</think>', reasoning: 'a <think> b', content: '' },
  { text: 'no </think> end', reasoning: '', content: 'no </think> end' },
  { text: '<thin k', reasoning: '', content: '<thin k' },
  { text: '<think>a</thi', reasoning: 'a</thi', content: '' },
])('$text', ({ text, reasoning, content, ...options }) => {
  it('is split the same however it is cut', () => {
    expect(split([text], options)).toEqual({ reasoning, content });
    expect(split(Array.from(text), options)).toEqual({ reasoning, content });
    for (let at = 1; at < text.length; at++) {
      expect(split([text.slice(0, at), text.slice(at)], options)).toEqual({ reasoning, content });
    }
  });
});

it('splits any text the same however it is cut, and keeps all but tags and white space', () => {
  const fragment = fc.constantFrom(...TAGS, '<', 'think>', ' ', '\n', 'a', '</');
  const cutText = fc
    .array(fragment, { maxLength: 12 })
    .chain((parts) => fc.tuple(fc.constant(parts.join('')), fc.array(fc.nat(40)), fc.boolean()));
  fc.assert(
    fc.property(cutText, ([text, cuts, isOpen]) => {
      const ends = [0, ...cuts.sort((a, b) => a - b), text.length];
      const pieces = ends.slice(1).map((end, i) => text.slice(ends[i], end));
      const whole = split([text], { isOpen });
      expect(split(pieces, { isOpen })).toEqual(whole);
      // Only the tags that were taken out: without them, what stood around them may read like one.
      const letters = (kept: string) => Array.from(kept.replace(/\s/g, '')).sort().join('');
      const kept = whole.content + whole.reasoning;
      const [begins, finishes] = TAGS.map((tag) => text.split(tag).length);
      const possible = Array.from({ length: begins! * finishes! }, (_, i) => {
        const taken = TAGS[0]!.repeat(i % begins!) + TAGS[1]!.repeat(Math.floor(i / begins!));
        return letters(kept + taken);
      });
      expect(possible).toContain(letters(text));
    }),
  );
});

it('goes by the template and the prompt', () => {
  const source = "{{ '<think>\n' }}";
  expect(reasoningStage(source, 'assistant\n')).toBe('possible');
  expect(reasoningStage(source, 'assistant\n<think>\n')).toBe('open');
  expect(reasoningStage(source, 'assistant\n<think>\n\n</think>\n\n')).toBe('none');
  expect(reasoningStage('plain', '<think>')).toBe('none');
});
