import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { Detokenizer } from '../../src/text/detokenizer.ts';
import { loadTokenizer, readFixture } from './models.ts';

interface Stream {
  note: string;
  ids: number[];
  skip_special_tokens: boolean;
  deltas: (string | null)[] | { error: string };
  full_decode: string;
  flush: string | null;
}

function run(name: string, ids: readonly number[], preceding?: readonly number[]): string[] {
  const detokenizer = new Detokenizer(loadTokenizer(name), preceding);
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()];
}

describe.each(['babyllama-tok105', 'gpt2', 'mistral-7b-v0.3', 'qwen2', 'stories260K'])(
  'stream of %s',
  (name) => {
    // Control tokens are never part of output text, so the other half of the cases does not apply.
    const streams = (readFixture(`tokenizers/${name}.stream.json`) as Stream[]).filter(
      (s) => s.skip_special_tokens,
    );

    it.each(streams.map((s) => [s.note, s] as const))('equals the reference on %s', (_, stream) => {
      if (!Array.isArray(stream.deltas)) return;
      const texts = run(name, stream.ids);
      const flushed = texts.pop();
      expect(texts.map((text) => (text === '' ? null : text))).toEqual(stream.deltas);
      if (stream.flush !== null) expect(flushed).toBe(stream.flush);
      expect([...texts, flushed].join('')).toBe(stream.full_decode);
    });
  },
);

const text = fc
  .array(fc.constantFrom('Hello', ' ', '  ', '你', '😀', 'é', '\n', 'a', '▁', '👨‍👩‍👧', ' world', '\uFFFD'), {
    maxLength: 20,
  })
  .map((parts) => parts.join(''));

describe.each(['gpt2', 'mistral-7b-v0.3', 'stories260K'])('any text with %s', (name) => {
  const tokenizer = loadTokenizer(name);

  it('comes out whole, and never with half a character', () => {
    fc.assert(
      fc.property(text, (value) => {
        const ids = tokenizer.encodePlain(value);
        const texts = run(name, ids);
        expect(texts.join('')).toBe(tokenizer.decode(ids));
        if (!value.includes('\uFFFD')) expect(texts.join('|')).not.toContain('\uFFFD');
      }),
    );
  });

  it('may be continued from any token of it', () => {
    const withoutReplacement = text.map((value) => value.replaceAll('\uFFFD', ''));
    fc.assert(
      fc.property(withoutReplacement, fc.nat(), (value, cut) => {
        const ids = tokenizer.encode(value);
        const at = cut % (ids.length + 1);
        const completion = run(name, ids.slice(at), ids.slice(0, at)).join('');
        const whole = tokenizer.decode(ids);
        // Cut inside a character, the completion holds all of it.
        expect(whole.endsWith(completion)).toBe(true);
        const bytes = Buffer.concat(ids.slice(0, at).map((id) => tokenizer.tokenBytes(id)));
        const finished = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes, { stream: true });
        const prompt = whole.slice(0, whole.length - completion.length);
        expect([prompt, ` ${prompt}`, `<s> ${prompt}`, `<s>${prompt}`]).toContain(finished);
      }),
    );
  });
});

describe('detokenizer', () => {
  it('shows control tokens that are asked for, and none else', () => {
    const tokenizer = loadTokenizer('mistral-7b-v0.3');
    const ids = tokenizer.controlTokenIds(['[TOOL_CALLS]', 'call']);
    expect([...ids.keys()]).toEqual(['[TOOL_CALLS]']);
    const marker = ids.get('[TOOL_CALLS]')!;
    const other = tokenizer.controlTokenIds(['[/INST]']).get('[/INST]')!;
    const detokenizer = new Detokenizer(tokenizer, [], new Set([marker]));
    const completion = [...tokenizer.encodePlain('Well: é'), other, marker, ...tokenizer.encodePlain('[1]')];
    const texts = completion.map((id) => detokenizer.push(id));
    expect([...texts, detokenizer.flush()].join('')).toBe('Well: é[TOOL_CALLS][1]');
  });

  it('reads the first token as the prompt demands', () => {
    const tokenizer = loadTokenizer('stories260K');
    const [bos, once, upon] = tokenizer.encode('Once upon') as [number, number, number];
    expect(run('stories260K', [once, upon]).join('')).toBe('Once upon');
    expect(run('stories260K', [once, upon], [bos]).join('')).toBe('Once upon');
    expect(run('stories260K', [upon], [bos, once]).join('')).toBe(' upon');
    expect(run('stories260K', [upon], [bos, once, 2]).join('')).toBe('upon');
  });

  it('finishes a character that the prompt ends inside of, and repeats nothing before it', () => {
    const ids = loadTokenizer('gpt2').encode('x 😀');
    // The second token holds the space and half of the character.
    expect(ids).toHaveLength(3);
    expect(run('gpt2', ids.slice(2), ids.slice(0, 2)).join('')).toBe('😀');
  });

  it('says nothing of control tokens and of ids without a token', () => {
    const tokenizer = loadTokenizer('qwen2');
    const [a, b] = tokenizer.encode('a b') as [number, number];
    expect(run('qwen2', [151644, a, 151645, 151900, b, 151645])).toEqual(['', 'a', '', '', ' b', '', '']);
  });

  it('looks at a bounded number of tokens, broken text included', () => {
    const tokenizer = loadTokenizer('stories260K');
    const decode = vi.spyOn(tokenizer, 'decode');
    const broken = tokenizer.encodePlain('\u{10FFFF}').at(-1) ?? 0;
    const ids = [
      ...tokenizer.encodePlain('once upon a time '.repeat(200)),
      ...new Array<number>(500).fill(broken),
    ];
    const texts = run('stories260K', ids, ids);
    const longest = Math.max(...decode.mock.calls.map(([window]) => window.length));
    decode.mockRestore();
    expect(longest).toBeLessThan(80);
    expect(texts.join('').endsWith('\uFFFD'.repeat(400))).toBe(true);
  });
});
