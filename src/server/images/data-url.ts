/** Images inside a request: `data:` URLs in strict base64. */
import { AppError } from '../../errors.ts';
import { IMAGE_TYPES, SIGNATURE_BYTES, imageTypeOf, sniffImageType } from './image-type.ts';
import type { ImageType } from './image-type.ts';

/** The base64 text of an image, and what it is. */
export interface InlineImage {
  readonly type: ImageType;
  readonly base64: string;
}

/** Of what can follow `data:`. */
const MAX_MEDIA_TYPE_CHARACTERS = 100;

/**
 * Checks without decoding more than the first bytes.
 * @throws AppError `unsupported_value` for another kind of data, `invalid_request` for bad base64 or too many bytes
 */
export function checkDataUrl(url: string, limitBytes: number, param: string): InlineImage {
  const refuse = (message: string) => new AppError('invalid_request', `${param}: ${message}`, { param });
  const comma = url.slice(0, MAX_MEDIA_TYPE_CHARACTERS).indexOf(',');
  const type = imageTypeOf(url.slice('data:'.length, Math.max(comma, 0)));
  if (type === null || !/^data:[^;]*;base64$/i.test(url.slice(0, comma))) {
    throw new AppError('unsupported_value', `${param}: expected "data:<type>;base64,..." of ${IMAGE_TYPES}`, {
      param,
    });
  }
  const base64 = url.slice(comma + 1);
  const sizeBytes = decodedBytes(base64);
  if (sizeBytes > limitBytes) {
    throw refuse(`expected an image of at most ${limitBytes} bytes, got ${sizeBytes}`);
  }
  if (!isBase64(base64)) throw refuse('expected padded base64 without line breaks after the comma');
  const start = Buffer.from(base64.slice(0, (SIGNATURE_BYTES / 3) * 4), 'base64');
  if (sniffImageType(start) !== type) throw refuse(`expected the bytes of an image of type ${type}`);
  return { type, base64 };
}

function decodedBytes(base64: string): number {
  const padding = base64.endsWith('==') ? 2 : base64.endsWith('=') ? 1 : 0;
  return Math.floor((base64.length * 3) / 4) - padding;
}

/** Bits that the last character has beyond the last byte are zero in the one canonical spelling. */
function isBase64(text: string): boolean {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return false;
  const end = text.slice(-4);
  return Buffer.from(end, 'base64').toString('base64') === end;
}
