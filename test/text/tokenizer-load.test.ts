import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { ChatTemplate } from '../../src/text/chat-template.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { makeModelDir, readTokenizerJson } from './models.ts';
import type { TokenizerJson } from './models.ts';

function loadError(dir: string): AppError {
  try {
    Tokenizer.load(dir);
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error('expected loading to fail');
}

function changed(change: (json: TokenizerJson) => void): string {
  const json = readTokenizerJson('stories260K');
  change(json);
  return makeModelDir({ 'tokenizer.json': json });
}

const BAD: readonly (readonly [string, () => string, string])[] = [
  ['a missing file', () => makeModelDir({}), 'expected a file, got none'],
  ['no JSON', () => makeModelDir({ 'tokenizer.json': '{"model":' }), 'expected JSON'],
  ['another shape', () => makeModelDir({ 'tokenizer.json': [] }), 'expected object'],
  ['no model', () => changed((json) => delete (json as Partial<TokenizerJson>).model), 'model'],
  ['another kind of model', () => changed((json) => (json.model.type = 'Unigram')), 'model.type'],
  ['a null vocabulary', () => changed((json) => (json.model.vocab = null)), 'model.vocab'],
  ['an id that is none', () => changed((json) => (json.model.vocab = { a: -1 })), 'expected an id, got -1'],
  [
    'a merge of three',
    () => changed((json) => (json.model.merges = ['a b c'])),
    'model.merges.0: expected a pair',
  ],
  ['a merge that is none', () => changed((json) => (json.model.merges = [7])), 'model.merges.0'],
  [
    'a merge of unknown tokens',
    () => changed((json) => (json.model.merges = ['zq qz'])),
    'tokens of the vocabulary',
  ],
  [
    'an unknown pre-tokeniser',
    () => changed((json) => (json.pre_tokenizer = { type: 'BertPreTokenizer' })),
    'pre_tokenizer.type',
  ],
  ['an unknown decoder', () => changed((json) => (json.decoder = { type: 'CTC' })), 'decoder.type'],
  [
    'a broken expression',
    () =>
      changed(
        (json) => (json.pre_tokenizer = { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated' }),
      ),
    'regular expression',
  ],
  [
    'a suffix for words',
    () => changed((json) => (json.model.end_of_word_suffix = '</w>')),
    'end_of_word_suffix',
  ],
];

describe('a tokenizer.json that cannot be used', () => {
  it.each(BAD)('%s ends the start with a message that names the file', (_, make, message) => {
    const dir = make();
    const error = loadError(dir);
    expect(error.errorCode).toBe('startup');
    expect(error.message).toContain(join(dir, 'tokenizer.json'));
    expect(error.message.toLowerCase()).toContain(message.toLowerCase());
    expect(error.message).not.toMatch(/\n\s+at /);
  });

  it('is not read when it is too large', () => {
    const dir = makeModelDir({ 'tokenizer.json': '{}' });
    truncateSync(join(dir, 'tokenizer.json'), 129 * 1024 * 1024);
    expect(loadError(dir).message).toMatch(/expected at most \d+ bytes, got \d+/);
  });
});

describe('a tokenizer_config.json that cannot be used', () => {
  const dir = makeModelDir({ 'tokenizer.json': readTokenizerJson('stories260K') });
  const path = join(dir, 'tokenizer_config.json');
  it.each([
    ['{', 'expected JSON'],
    ['{"bos_token": 7}', 'bos_token'],
    ['{"chat_template": 7}', 'chat_template'],
  ])('%s is named', (text, message) => {
    writeFileSync(path, text);
    for (const load of [() => Tokenizer.load(dir), () => ChatTemplate.load(dir)]) {
      expect(load).toThrow(expect.objectContaining({ errorCode: 'startup' }));
      expect(load).toThrow(path);
      expect(load).toThrow(message);
    }
  });
});
