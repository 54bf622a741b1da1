/**
 * The decoder of a tokenizer.json: token texts back to text.
 * Written here because the library's drops a byte order mark, replaces a broken run of byte tokens by fewer U+FFFD
 * than the reference, takes characters outside the byte alphabet for NUL, and cannot tell a token's bytes.
 */
import { fromByteAlphabet } from './byte-alphabet.ts';
import { compilePattern } from './pattern.ts';
import type { DecoderConfig } from './tokenizer-file.ts';

export interface TokenDecoder {
  /** Texts whose concatenation is the decoded text. */
  decode(tokens: readonly string[]): readonly string[];
  /** The bytes of one token where it stands inside a text (no stripping at the edges), or null to try the next stage. */
  readonly bytesOf?: (token: string) => Uint8Array | null;
  /** What becomes of the token's text before later stages see it. */
  readonly textOf?: (token: string) => string;
}

const lossy = new TextDecoder('utf-8', { ignoreBOM: true });
const strict = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });

/** UTF-8 to text; each maximal broken part becomes one U+FFFD. */
export function decodeLossy(bytes: Uint8Array): string {
  return lossy.decode(bytes);
}

/** The stages in order. */
export function compileDecoder(config: DecoderConfig): TokenDecoder[] {
  switch (config.type) {
    case 'Sequence':
      return config.decoders.flatMap(compileDecoder);
    case 'ByteLevel':
      return [byteLevel];
    case 'ByteFallback':
      return [byteFallback];
    case 'Fuse':
      return [{ decode: (tokens) => [tokens.join('')] }];
    case 'Replace': {
      const pattern = compilePattern(config.pattern);
      const textOf = (token: string) => token.replace(pattern, () => config.content);
      return [{ decode: (tokens) => tokens.map(textOf), textOf }];
    }
    case 'Strip':
      return [
        {
          decode: (tokens) => tokens.map((token) => strip(token, config.content, config.start, config.stop)),
        },
      ];
    case 'Metaspace': {
      const { replacement, prepend_scheme: scheme } = config;
      const textOf = (token: string) => token.replaceAll(replacement, ' ');
      const first = scheme === 'never' ? textOf : (token: string) => token.replaceAll(replacement, '');
      return [
        { decode: (tokens) => tokens.map((token, i) => (i === 0 ? first(token) : textOf(token))), textOf },
      ];
    }
  }
}

/** The bytes of one token where it stands inside a text: a leading space is kept. */
export function tokenBytes(stages: readonly TokenDecoder[], token: string): Uint8Array {
  let text = token;
  for (const stage of stages) {
    const bytes = stage.bytesOf?.(text);
    if (bytes != null) return bytes;
    text = stage.textOf?.(text) ?? text;
  }
  return Buffer.from(text, 'utf8');
}

const byteLevel: TokenDecoder = {
  decode: (tokens) => [decodeLossy(Buffer.concat(tokens.map(byteLevelBytes)))],
  bytesOf: byteLevelBytes,
};

/** Added tokens may hold characters outside the alphabet: those tokens stand for themselves. */
function byteLevelBytes(token: string): Uint8Array {
  return fromByteAlphabet(token) ?? Buffer.from(token, 'utf8');
}

const byteFallback: TokenDecoder = {
  decode(tokens) {
    const texts: string[] = [];
    let run: number[] = [];
    const endRun = (): void => {
      if (run.length > 0) texts.push(decodeByteRun(Uint8Array.from(run)));
      run = [];
    };
    for (const token of tokens) {
      const byte = fallbackByte(token);
      if (byte !== null) run.push(byte);
      else {
        endRun();
        texts.push(token);
      }
    }
    endRun();
    return texts;
  },
  bytesOf: (token) => {
    const byte = fallbackByte(token);
    return byte === null ? null : Uint8Array.of(byte);
  },
};

function fallbackByte(token: string): number | null {
  const match = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  return match?.[1] === undefined ? null : Number.parseInt(match[1], 16);
}

/** One U+FFFD for every byte of a run that is not UTF-8 as a whole: the reference's rule. */
function decodeByteRun(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return '\uFFFD'.repeat(bytes.length);
  }
}

/** Up to `start` leading and `stop` trailing characters `content` less. */
function strip(token: string, content: string, start: number, stop: number): string {
  let from = 0;
  while (from < start && token[from] === content) from++;
  let to = token.length;
  while (token.length - to < stop && to > from && token[to - 1] === content) to--;
  return token.slice(from, to);
}
