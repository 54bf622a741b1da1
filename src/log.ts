/** The log: readable lines on a terminal, one JSON object a line elsewhere. */
import { Writable } from 'node:stream';
import { pino } from 'pino';
import type { Logger } from 'pino';
import pretty from 'pino-pretty';

export type { Logger } from 'pino';

export interface LogOptions {
  readonly level: string;
  /** Where lines go; default: standard output. */
  readonly stream?: NodeJS.WritableStream & { readonly isTTY?: boolean };
}

/**
 * Text from outside goes into fields, never into the message: fields are written as JSON strings in both formats,
 * so that a line break or an escape sequence in them cannot forge a line. Only stacks of errors take more than one line
 * on a terminal, all indented.
 */
export function createLogger({ level, stream = process.stdout }: LogOptions): Logger {
  const options = { level, base: null };
  const destination = new Writable({
    write: (chunk: Buffer, _, done) => {
      stream.write(escapeLeftovers(chunk.toString()));
      done();
    },
  });
  if (stream.isTTY !== true) return pino(options, destination);
  return pino(
    options,
    pretty({
      destination,
      singleLine: true,
      translateTime: 'SYS:HH:MM:ss.l',
      colorize: true,
      sync: true,
    }),
  );
}

/** What JSON leaves as it is though terminals and editors act on it: DEL, C1 controls, line separators, text direction. */
function escapeLeftovers(text: string): string {
  return text.replaceAll(
    /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
