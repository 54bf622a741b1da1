/** The kinds of images that are read, and how their first bytes tell them. */

export type ImageType = 'png' | 'jpeg' | 'webp' | 'gif';

const TYPES: Readonly<Record<string, ImageType>> = {
  'image/png': 'png',
  'image/jpeg': 'jpeg',
  // No registered name, but what clients that go by file endings send.
  'image/jpg': 'jpeg',
  'image/webp': 'webp',
  'image/gif': 'gif',
};

/** For error messages. */
export const IMAGE_TYPES = 'image/png, image/jpeg, image/webp or image/gif';

/** Bytes that `sniffImageType` needs. */
export const SIGNATURE_BYTES = 12;

/** The type that a media type names; parameters after `;` do not matter. */
export function imageTypeOf(mediaType: string): ImageType | null {
  const name = mediaType.split(';', 1)[0]?.trim().toLowerCase() ?? '';
  return Object.hasOwn(TYPES, name) ? (TYPES[name] ?? null) : null;
}

/** The type that the first bytes of a file show. */
export function sniffImageType(bytes: Uint8Array): ImageType | null {
  const start = Buffer.from(bytes.subarray(0, SIGNATURE_BYTES)).toString('latin1');
  if (start.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (start.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (/^GIF8[79]a/.test(start)) return 'gif';
  return /^RIFF[^]{4}WEBP$/.test(start) ? 'webp' : null;
}
