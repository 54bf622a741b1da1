/** How much text one token can stand for: with it, a text's length alone tells how many tokens it has at least. */
import { byteAlphabet } from './byte-alphabet.ts';
import type {
  AddedToken,
  BpeConfig,
  NormalizerConfig,
  PreTokenizerConfig,
  TokenizerFile,
} from './tokenizer-file.ts';

const utf8Bytes = (text: string): number => Buffer.byteLength(text, 'utf8');

/**
 * The most UTF-8 bytes of a text that one token can stand for, or null where some step may leave text out or shorten
 * it, so that no length of text proves anything.
 * @param added all added tokens, also those that only `tokenizer_config.json` names.
 */
export function maxTokenBytes(file: TokenizerFile, added: readonly AddedToken[]): number | null {
  const { normalizer, pre_tokenizer: preTokenizer, model } = file;
  if (normalizer != null && mayShorten(normalizer)) return null;
  if (preTokenizer != null && mayLeaveOut(preTokenizer)) return null;
  if (added.some((token) => token.lstrip || token.rstrip)) return null;
  const isByteLevel = preTokenizer != null && endsInBytes(preTokenizer);
  if (!knowsEveryByte(model, isByteLevel)) return null;
  // In the byte alphabet one character is one byte; elsewhere a token's own bytes are at least those it stands for.
  const bytesOf = isByteLevel ? (token: string) => token.length : utf8Bytes;
  let most = 0;
  for (const token of Object.keys(model.vocab)) most = Math.max(most, bytesOf(token));
  for (const { content } of added) most = Math.max(most, utf8Bytes(content));
  return most;
}

/** The Unicode forms count: a few characters are longer before than after. */
function mayShorten(config: NormalizerConfig): boolean {
  switch (config.type) {
    case 'Sequence':
      return config.normalizers.some(mayShorten);
    case 'Prepend':
      return false;
    case 'Replace':
      return !('String' in config.pattern) || utf8Bytes(config.content) < utf8Bytes(config.pattern.String);
    default:
      return true;
  }
}

function mayLeaveOut(config: PreTokenizerConfig): boolean {
  if (config.type === 'Sequence') return config.pretokenizers.some(mayLeaveOut);
  if (config.type === 'Metaspace') return config.replacement === '';
  return 'behavior' in config && config.behavior === 'Removed';
}

function endsInBytes(config: PreTokenizerConfig): boolean {
  if (config.type !== 'Sequence') return config.type === 'ByteLevel';
  const last = config.pretokenizers.at(-1);
  return last !== undefined && endsInBytes(last);
}

/** Without a token for every byte, unknown characters vanish or share one token. */
function knowsEveryByte({ vocab, byte_fallback: hasFallback }: BpeConfig, isByteLevel: boolean): boolean {
  if (!isByteLevel && hasFallback !== true) return false;
  return Array.from(byteAlphabet, (character, byte) =>
    isByteLevel ? character : `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  ).every((token) => Object.hasOwn(vocab, token));
}
