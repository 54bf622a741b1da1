import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopStrings } from '../../src/text/stop-strings.ts';

/** The definition: look at every end in turn, and at the earliest start for it. */
function expected(text: string, stops: readonly string[]): { released: string; matched: string | null } {
  for (let end = 1; end <= text.length; end++) {
    for (let start = 0; start < end; start++) {
      const candidate = text.slice(start, end);
      if (stops.includes(candidate)) return { released: text.slice(0, start), matched: candidate };
    }
  }
  return { released: text, matched: null };
}

function chunks(text: string, cuts: readonly number[]): string[] {
  const at = [...new Set(cuts.map((cut) => cut % (text.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((start, i) => text.slice(start, [...at, text.length][i]));
}

function run(stops: readonly string[], parts: readonly string[]) {
  const finder = new StopStrings(stops);
  const released = parts.map((part) => finder.push(part));
  return { released: released.join('') + finder.flush(), matched: finder.matched };
}

describe('stop strings', () => {
  const overlapping = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 30 });
  const unicode = fc.string({ unit: fc.constantFrom('a', '😀', '😁', 'é', '\n', '你'), maxLength: 20 });
  it.each([
    ['overlapping', overlapping, fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 5 })],
    [
      'unicode',
      unicode,
      fc.string({ unit: fc.constantFrom('a', '😀', '😁', '你'), minLength: 1, maxLength: 3 }),
    ],
  ])('equal the definition, however the text is cut (%s)', (_, text, stop) => {
    fc.assert(
      fc.property(
        text,
        fc.array(stop, { maxLength: 4 }),
        fc.array(fc.nat(), { maxLength: 8 }),
        (value, stops, cuts) => {
          expect(run(stops, chunks(value, cuts))).toEqual(expected(value, stops));
        },
      ),
      { numRuns: 1000 },
    );
  });

  it.each([
    [['aab'], 'aaab', 'a'],
    [['aa'], 'baaa', 'b'],
    [['bc', 'abc'], 'xabcd', 'x'],
    [['abcd', 'bc'], 'abcd', 'a'],
  ])('%j in %j leave %j', (stops, text, released) => {
    expect(run(stops, Array.from(text)).released).toBe(released);
  });

  it('hold back no more than may become a match', () => {
    const finder = new StopStrings(['###', '\nUser:']);
    expect(finder.push('Hi #')).toBe('Hi ');
    expect(finder.push('# x')).toBe('## x');
    expect(finder.push('\nUs')).toBe('');
    expect(finder.push('ers\n')).toBe('\nUsers');
    expect(finder.flush()).toBe('\n');
    expect(finder.flush()).toBe('');
  });

  it('release nothing after a match', () => {
    const finder = new StopStrings(['END']);
    expect(finder.push('one END two')).toBe('one ');
    expect(finder.matched).toBe('END');
    expect(finder.push('three')).toBe('');
    expect(finder.flush()).toBe('');
  });

  it('may be absent, but not empty', () => {
    expect(run([], ['ab', 'c'])).toEqual({ released: 'abc', matched: null });
    expect(() => new StopStrings(['a', ''])).toThrow(
      expect.objectContaining({ errorCode: 'invalid_request', param: 'stop[1]' }),
    );
  });

  it('cost little, even where everything nearly matches', () => {
    const finder = new StopStrings([`${'a'.repeat(50_000)}b`, `${'a'.repeat(49_999)}c`]);
    let released = 0;
    const start = performance.now();
    for (let i = 0; i < 100_000; i++) released += finder.push('a').length;
    expect(released).toBe(50_000);
    expect(performance.now() - start).toBeLessThan(5_000);
  });
});
