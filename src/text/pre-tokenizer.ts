/**
 * The pre-tokeniser of a tokenizer.json: cuts text into the pieces that are merged each by itself.
 * Written here because the library's stages depart from the reference: its `ByteLevel` takes U+FEFF for white space,
 * `Digits` knows ASCII digits only, `Metaspace` never splits, `Split` has two of the five behaviours.
 */
import { toByteAlphabet } from './byte-alphabet.ts';
import { compilePattern, escapeRegExp, splitByPattern } from './pattern.ts';
import type { PreTokenizerConfig } from './tokenizer-file.ts';

/** `atStart`: the text begins where the whole input begins. Pieces are never empty. */
export type PreTokenizer = (text: string, atStart: boolean) => string[];

const GPT2_PATTERN = `'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`;
/** Unicode punctuation, and the ASCII symbols that Unicode does not count as such. */
const PUNCTUATION = /[\p{P}$+<=>^`|~]/gu;

export function compilePreTokenizer(config: PreTokenizerConfig): PreTokenizer {
  switch (config.type) {
    case 'Sequence': {
      const steps = config.pretokenizers.map(compilePreTokenizer);
      return (text, atStart) =>
        steps.reduce((pieces, step) => pieces.flatMap((piece, i) => step(piece, atStart && i === 0)), [text]);
    }
    case 'ByteLevel': {
      const pattern = config.use_regex ? compilePattern({ Regex: GPT2_PATTERN }) : null;
      return (text) => {
        const prefixed = config.add_prefix_space && !text.startsWith(' ') ? ` ${text}` : text;
        const pieces = pattern === null ? [prefixed] : splitByPattern(prefixed, pattern, 'Isolated', false);
        return pieces.map(toByteAlphabet);
      };
    }
    case 'Split': {
      const pattern = compilePattern(config.pattern);
      return (text) => splitByPattern(text, pattern, config.behavior, config.invert);
    }
    case 'Digits': {
      const behavior = config.individual_digits ? 'Isolated' : 'Contiguous';
      return (text) => splitByPattern(text, /\p{N}/gu, behavior, false);
    }
    case 'Punctuation':
      return (text) => splitByPattern(text, PUNCTUATION, config.behavior, false);
    case 'Metaspace':
      return compileMetaspace(config.replacement, config.prepend_scheme, config.split);
  }
}

function compileMetaspace(mark: string, scheme: 'always' | 'first' | 'never', split: boolean): PreTokenizer {
  const pattern = new RegExp(escapeRegExp(mark), 'gu');
  return (text, atStart) => {
    const marked = text.replaceAll(' ', mark);
    const prepends = scheme === 'always' || (scheme === 'first' && atStart);
    const prefixed = prepends && !marked.startsWith(mark) ? mark + marked : marked;
    return split ? splitByPattern(prefixed, pattern, 'MergedWithNext', false) : [prefixed];
  };
}
