/** The log: readable lines on a terminal, one JSON object a line elsewhere. */
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
 * so that a line break or an escape sequence in them cannot forge a line.
 */
export function createLogger({ level, stream = process.stdout }: LogOptions): Logger {
  const options = { level, base: null };
  if (stream.isTTY !== true) return pino(options, stream);
  return pino(
    options,
    pretty({
      destination: stream,
      singleLine: true,
      translateTime: 'SYS:HH:MM:ss.l',
      colorize: true,
      sync: true,
    }),
  );
}
