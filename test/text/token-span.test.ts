/** A token never stands for more text than its tokenizer says, whatever the text. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { loadTokenizer, makeTokenizer } from './models.ts';

describe('the most bytes of a text that one token can stand for', () => {
  test.each([
    ['coppice-recall', 13],
    ['gpt2', 128],
    ['mistral-7b-v0.3', 48],
    ['stories260K', 9],
  ])('%s', (name, expected) => {
    const tokenizer = loadTokenizer(name);
    expect(tokenizer.maxTokenBytes).toBe(expected);
    const piece = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(
        'the ',
        ' ',
        '\n',
        '<s>',
        '<|im_end|>',
        '▁▁',
        'é',
        '\uD800',
        '한',
        '🙂',
        '.'.repeat(70),
      ),
      fc.nat(tokenizer.vocabSize - 1).map((id) => tokenizer.tokenText(id)),
    );
    const text = fc.array(piece, { maxLength: 60 }).map((pieces) => pieces.join(''));
    fc.assert(
      fc.property(text, (written) => {
        const least = Math.ceil(Buffer.byteLength(written, 'utf8') / expected);
        expect(tokenizer.encode(written, { addSpecialTokens: false }).length).toBeGreaterThanOrEqual(least);
      }),
    );
  });

  test('a text of the longest token alone has no more tokens than the bound says', () => {
    const tokenizer = loadTokenizer('gpt2');
    const longest = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.tokenText(id)).find(
      (token) => Buffer.byteLength(token, 'utf8') === 128,
    );
    expect(tokenizer.encode(longest ?? '')).toHaveLength(1);
  });

  test.each([
    ['a Unicode form, which may shorten text', { normalizer: { type: 'NFC' } }],
    ['stripped white space', { normalizer: { type: 'Strip', strip_left: true, strip_right: true } }],
    ['a shorter replacement', { normalizer: { type: 'Replace', pattern: { String: '  ' }, content: ' ' } }],
    [
      'text that is left out',
      { pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'Removed' } },
    ],
    [
      'a token that swallows white space',
      { added_tokens: [{ id: 0, content: '<unk>', special: true, rstrip: true }] },
    ],
  ])('no bound with %s', (_, change) => {
    expect(makeTokenizer((json) => Object.assign(json, change)).maxTokenBytes).toBeNull();
  });

  test('no bound where unknown characters share a token', () => {
    expect(makeTokenizer((json) => (json.model.byte_fallback = false)).maxTokenBytes).toBeNull();
  });
});
