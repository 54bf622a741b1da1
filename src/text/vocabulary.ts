/** A tokenizer's vocabulary for constrained texts. */
import type { Vocabulary } from '../runtime/constraint/vocabulary.ts';
import { toByteAlphabet } from './byte-alphabet.ts';
import type { Tokenizer } from './tokenizer.ts';

/**
 * @param markers texts of control tokens that may be part of a constrained text, such as those around tool calls;
 *   other control tokens never are
 */
export function grammarVocabulary(tokenizer: Tokenizer, markers: ReadonlySet<string>): Vocabulary {
  const tokens = Array.from({ length: tokenizer.vocabSize }, (_, id) => {
    const isHidden = tokenizer.specialIds.has(id) && !markers.has(tokenizer.tokenText(id));
    return isHidden ? new Uint8Array() : tokenizer.tokenBytes(id);
  });
  return vocabularyOf(tokens);
}

/** @param tokens bytes by id; none = never part of a constrained text */
export function vocabularyOf(tokens: readonly Uint8Array[]): Vocabulary {
  const texts = tokens.map((bytes) => (isBroken(bytes) ? '' : toByteAlphabet(bytes)));
  return {
    texts: texts.join('\n'),
    leads: Uint8Array.from(tokens, (bytes) => leadOf(bytes.at(-1) ?? 0)),
    barred: Uint8Array.from(tokens, ([first = 0]) =>
      LEADS.reduce((bits, _, i) => (mayFollow(i + 1, first) ? bits : bits | (1 << (i + 1))), 0),
    ),
  };
}

/** Lead bytes that not every continuation byte may follow: https://www.unicode.org/versions/Unicode16.0.0/core-spec/chapter-3/#G27506 */
const LEADS = [
  { lead: 0xe0, first: 0xa0, last: 0xbf },
  { lead: 0xed, first: 0x80, last: 0x9f },
  { lead: 0xf0, first: 0x90, last: 0xbf },
  { lead: 0xf4, first: 0x80, last: 0x8f },
] as const;

/** Its number, from 1 on; 0 = none of them. */
function leadOf(byte: number): number {
  return LEADS.findIndex(({ lead }) => lead === byte) + 1;
}

/** Bytes that continue no character are the grammar's to refuse. */
function mayFollow(lead: number, byte: number): boolean {
  const range = LEADS[lead - 1];
  const continues = byte >= 0x80 && byte <= 0xbf;
  return range === undefined || !continues || (byte >= range.first && byte <= range.last);
}

/** Holds bytes that no UTF-8 text has. */
function isBroken(bytes: Uint8Array): boolean {
  return bytes.some(
    (byte, i) => byte === 0xc0 || byte === 0xc1 || byte > 0xf4 || !mayFollow(leadOf(bytes[i - 1] ?? 0), byte),
  );
}
