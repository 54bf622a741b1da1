/** The server's certificate, read again when its files change. */
import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { Server } from 'node:https';
import type { Config } from '../config.ts';
import { AppError, errorMessage } from '../errors.ts';
import type { Logger } from '../log.ts';
import { watchFiles } from './watch-files.ts';
import type { FileWatch } from './watch-files.ts';

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

/** PEM text. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** null without TLS. @throws AppError `startup` when only one file is named */
export function tlsFiles({ tls: { cert_file: certFile, key_file: keyFile } }: Config): TlsFiles | null {
  if (certFile !== null && keyFile !== null) return { certFile, keyFile };
  if (certFile === null && keyFile === null) return null;
  const [has, lacks] = certFile === null ? ['key_file', 'cert_file'] : ['cert_file', 'key_file'];
  throw new AppError('startup', `tls.${lacks}: expected a file beside tls.${has}, got none`, {
    param: `tls.${lacks}`,
  });
}

/** @throws AppError `startup` that names the file */
export function readCertificate({ certFile, keyFile }: TlsFiles): Certificate {
  const certificate = { cert: read('tls.cert_file', certFile), key: read('tls.key_file', keyFile) };
  try {
    createSecureContext({ cert: certificate.cert });
  } catch (error) {
    throw refuse('tls.cert_file', certFile, error);
  }
  try {
    createSecureContext(certificate);
  } catch (error) {
    throw refuse('tls.key_file', keyFile, error);
  }
  return certificate;
}

/** New connections get the certificate as it is now; a broken one is logged and the last good one stays. */
export function renewCertificate(server: Server, files: TlsFiles, logger: Logger): FileWatch {
  return watchFiles([files.certFile, files.keyFile], () => {
    try {
      server.setSecureContext(readCertificate(files));
      logger.info({ file: files.certFile }, 'certificate read again');
    } catch (error) {
      logger.error({ reason: errorMessage(error) }, 'the certificate stays as it was');
    }
  });
}

function read(key: string, file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw refuse(key, file, error);
  }
}

function refuse(key: string, file: string, cause: unknown): AppError {
  return new AppError('startup', `${key} ${file}: ${errorMessage(cause)}`, { param: key, cause });
}
