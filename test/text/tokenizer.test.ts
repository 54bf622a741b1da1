import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadTokenizer, makeByteLevelTokenizer, makeTokenizer, readFixture } from './models.ts';

const NAMES = ['babyllama-tok105', 'llama2xs', 'pyspell', 'stories260K', 'gpt2', 'mistral-7b-v0.3', 'qwen2'];

interface Case {
  text: string;
  ids: number[];
  ids_with_special: number[];
  decoded: string;
  decoded_skip_special: string;
}

describe.each(NAMES)('tokenizer of %s', (name) => {
  const cases = readFixture(`tokenizers/${name}.cases.json`) as Case[];

  it.each(cases.map((c) => [c.text, c] as const))('equals the reference on %j', (text, expected) => {
    const tokenizer = loadTokenizer(name);
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(expected.ids);
    expect(tokenizer.encode(text)).toEqual(expected.ids_with_special);
    expect(tokenizer.decode(expected.ids, { skipSpecialTokens: false })).toBe(expected.decoded);
    expect(tokenizer.decode(expected.ids)).toBe(expected.decoded_skip_special);
  });
});

describe('a bound on the work', () => {
  it.each(['qwen2', 'gpt2'])(
    'stops soon after so many ids, which are those of the whole text: %s',
    (name) => {
      const tokenizer = loadTokenizer(name);
      const words = fc.array(fc.constantFrom('alpha', 'beta', '12', '<|im_end|>', '\n', 'é'), {
        maxLength: 60,
      });
      fc.assert(
        fc.property(words, fc.nat({ max: 100 }), (parts, maxIds) => {
          const text = parts.join(' ');
          const whole = tokenizer.encode(text);
          const bounded = tokenizer.encode(text, { maxIds });
          expect(bounded).toEqual(whole.slice(0, bounded.length));
          if (bounded.length < whole.length) expect(bounded.length).toBeGreaterThan(maxIds);
          expect(tokenizer.encodeTemplated(text, (part) => part, { maxIds }).length > maxIds).toBe(
            tokenizer.encodeTemplated(text, (part) => part).length > maxIds,
          );
        }),
      );
      expect(tokenizer.encode('word '.repeat(10_000), { maxIds: 50 }).length).toBeLessThan(100);
    },
  );
});

describe('control tokens', () => {
  it('are ids in encode and text in encodePlain', () => {
    const tokenizer = loadTokenizer('qwen2');
    const text = 'a<|im_end|>b';
    expect(tokenizer.encode(text)).toContain(151645);
    const plain = tokenizer.encodePlain(text);
    expect(plain).not.toContain(151645);
    expect(tokenizer.decode(plain)).toBe(text);
  });

  it('cannot be spelled by merges, even where the vocabulary has them', () => {
    const tokenizer = makeTokenizer((json) => {
      const vocab = json.model.vocab as Record<string, number>;
      vocab['s>'] = 512;
      (json.model.merges as unknown[]).push('s >', '< s>');
      vocab['<'] ??= 513;
      vocab['>'] ??= 514;
    });
    expect(tokenizer.encode('<s>', { addSpecialTokens: false })).toEqual([1]);
    const plain = tokenizer.encodePlain('<s>');
    expect(plain.filter((id) => tokenizer.specialIds.has(id))).toEqual([]);
    expect(tokenizer.decode(plain)).toBe('<s>');
  });

  it('never come out of encodePlain', () => {
    const tokenizer = loadTokenizer('mistral-7b-v0.3');
    const text = fc
      .array(fc.constantFrom('<s>', '</s>', '[INST]', '[/INST]', '<', 's', '>', ' ', 'x'))
      .map((parts) => parts.join(''));
    fc.assert(
      fc.property(text, (value) => {
        expect(tokenizer.encodePlain(value).filter((id) => tokenizer.specialIds.has(id))).toEqual([]);
      }),
    );
  });

  it('include those that only tokenizer_config.json names', () => {
    const change = (): void => undefined;
    expect(makeTokenizer(change).specialIds.has(403)).toBe(false);
    expect(makeTokenizer(change, { eos_token: '▁Once' }).specialIds.has(403)).toBe(true);
    const added = { '403': { content: '▁Once', special: true } };
    expect(makeTokenizer(change, { added_tokens_decoder: added }).specialIds.has(403)).toBe(true);
  });
});

describe('beginning-of-sequence token', () => {
  const none = (): void => undefined;
  it('follows the post-processor, unless add_bos_token says otherwise', () => {
    expect(makeTokenizer(none).encode('a')[0]).toBe(1);
    expect(makeTokenizer(none, { bos_token: '<s>', add_bos_token: false }).encode('a')[0]).not.toBe(1);
    const without = makeTokenizer((json) => (json.post_processor = null), {
      bos_token: { content: '<s>' },
      add_bos_token: true,
    });
    expect(without.prefixIds).toEqual([1]);
  });

  it('may be joined by an end-of-sequence token', () => {
    const tokenizer = makeTokenizer(none, { bos_token: '<s>', eos_token: '</s>', add_eos_token: true });
    expect(tokenizer.encode('').slice()).toEqual([1, 2]);
    expect(tokenizer.encode('', { addSpecialTokens: false })).toEqual([]);
  });
});

describe('added tokens', () => {
  const token = (content: string, flags: object) => ({
    id: 600,
    content,
    special: false,
    normalized: false,
    ...flags,
  });
  const segments = (text: string, flags: object) => {
    const tokenizer = makeTokenizer((json) => json.added_tokens.push(token('<x>', flags)));
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    const at = ids.indexOf(600);
    return at < 0 ? null : [ids.slice(0, at), ids.slice(at + 1)].map((part) => tokenizer.decode(part));
  };

  it('take the white space beside them where they say so', () => {
    expect(segments('a <x> b', {})).toEqual(['a ', ' b']);
    expect(segments('a <x> b', { lstrip: true })).toEqual(['a', ' b']);
    expect(segments('a <x> b', { rstrip: true })).toEqual(['a ', 'b']);
  });

  it('may be whole words only', () => {
    expect(segments('a<x> b', { single_word: true })).toBeNull();
    expect(segments('a <x> b', { single_word: true })).not.toBeNull();
  });

  it('are found longest first', () => {
    const tokenizer = makeTokenizer((json) =>
      json.added_tokens.push(token('<x>', {}), { ...token('<x>y', {}), id: 601 }),
    );
    expect(tokenizer.encode('<x>y<x>', { addSpecialTokens: false })).toEqual([601, 600]);
  });
});

describe('single tokens', () => {
  it('have the bytes that they add to a text', () => {
    const tokenizer = loadTokenizer('gpt2');
    const text = 'Hello 你好 😀 café\n\tx';
    const bytes = tokenizer.encode(text).map((id) => tokenizer.tokenBytes(id));
    expect(Buffer.concat(bytes).toString('utf8')).toBe(text);
  });

  it('keep their leading space, and show half characters as U+FFFD', () => {
    const tokenizer = loadTokenizer('stories260K');
    const ids = tokenizer.encode('Once upon 😀', { addSpecialTokens: false });
    expect(ids.map((id) => tokenizer.tokenText(id)).join('')).toBe(' Once upon \uFFFD\uFFFD\uFFFD\uFFFD');
    expect(Buffer.concat(ids.map((id) => tokenizer.tokenBytes(id))).toString('utf8')).toBe(' Once upon 😀');
    expect(tokenizer.tokenText(1)).toBe('<s>');
  });

  it('are empty beyond the vocabulary', () => {
    const tokenizer = loadTokenizer('qwen2');
    expect(tokenizer.vocabSize).toBe(151646);
    expect(tokenizer.has(151645)).toBe(true);
    expect(tokenizer.has(151646)).toBe(false);
    expect(tokenizer.tokenText(151800)).toBe('');
  });
});

describe('decode', () => {
  it.each([-1, 512, 1.5, Number.NaN, 2 ** 40])('refuses the id %d', (id) => {
    const decode = () => loadTokenizer('stories260K').decode([403, id], { param: 'prompt' });
    expect(decode).toThrow(expect.objectContaining({ errorCode: 'invalid_request', param: 'prompt[1]' }));
    expect(decode).toThrow(`expected a token id from 0 to 511, got ${id}`);
  });

  it('gives nothing for nothing', () => {
    expect(loadTokenizer('gpt2').decode([])).toBe('');
  });
});

describe('odd input', () => {
  it('takes a lone surrogate for U+FFFD', () => {
    for (const name of ['gpt2', 'mistral-7b-v0.3', 'qwen2']) {
      const tokenizer = loadTokenizer(name);
      expect(tokenizer.encode('a\uD83Db\uDE00')).toEqual(tokenizer.encode('a\uFFFDb\uFFFD'));
    }
  });

  it('comes back whole from a byte-level tokenizer', () => {
    const tokenizer = makeByteLevelTokenizer([]);
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        expect(tokenizer.decode(tokenizer.encodePlain(text))).toBe(text.toWellFormed());
      }),
    );
  });

  it('may be one long piece, without the time growing by its square', () => {
    const tokenizer = loadTokenizer('mistral-7b-v0.3');
    const text = 'the quick brown fox jumps over the lazy dog '.repeat(6_000);
    const start = performance.now();
    expect(tokenizer.encode(text).length).toBeGreaterThan(50_000);
    expect(performance.now() - start).toBeLessThan(3_000);
  });
});
