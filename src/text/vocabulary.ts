/** A tokenizer's vocabulary for constrained texts. */
import type { Vocabulary } from '../runtime/constraint/compiler.ts';
import { byteAlphabet } from './byte-alphabet.ts';
import type { Tokenizer } from './tokenizer.ts';

/**
 * @param markers texts of control tokens that may be part of a constrained text, such as those around tool calls;
 *   other control tokens never are
 */
export function grammarVocabulary(tokenizer: Tokenizer, markers: ReadonlySet<string>): Vocabulary {
  const tokens: string[] = [];
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const isHidden = tokenizer.specialIds.has(id) && !markers.has(tokenizer.tokenText(id));
    tokens.push(isHidden ? '' : inByteAlphabet(tokenizer.tokenBytes(id)));
  }
  return tokens.join('\n');
}

function inByteAlphabet(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byteAlphabet[byte] ?? '';
  return text;
}
