/** GPT-2's alphabet: one printable character for each of the 256 bytes. */

/** `byteAlphabet[byte]`: printable Latin-1 bytes stand for themselves, the others count up from U+0100. */
export const byteAlphabet: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
})();

const BYTES: ReadonlyMap<string, number> = new Map(byteAlphabet.map((character, byte) => [character, byte]));

/** One character for each byte; of text, for those of its UTF-8. */
export function toByteAlphabet(content: string | Uint8Array): string {
  let out = '';
  const bytes = typeof content === 'string' ? Buffer.from(content, 'utf8') : content;
  for (const byte of bytes) out += byteAlphabet[byte] ?? '';
  return out;
}

/** The bytes that a token stands for, or null where a character is none of the alphabet's. */
export function fromByteAlphabet(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTES.get(token.charAt(i));
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}
