/** The HTTP or HTTPS server below the app: limits on what comes before a request is whole, and replies to what is none. */
import { STATUS_CODES, createServer } from 'node:http';
import type { IncomingMessage, RequestListener, Server, ServerOptions, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Duplex } from 'node:stream';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { REQUEST_ID_HEADER, chooseRequestId } from './request-id.ts';
import { readCertificate, renewCertificate, tlsFiles } from './tls.ts';

/** Milliseconds, most as in Node's options of the same names. */
export interface Timeouts {
  /** From the first byte of a request to the end of its headers. */
  readonly headersTimeout: number;
  /** From the first byte of a request to the last of its body. */
  readonly requestTimeout: number;
  /** Without a request; longer than proxies keep connections that they might just be using again. */
  readonly keepAliveTimeout: number;
  /** In which a client takes not one byte of a reply that is there. */
  readonly stalledReaderTimeout: number;
  /** How often the first two are looked after. */
  readonly connectionsCheckingInterval: number;
}

const TIMEOUTS: Timeouts = {
  headersTimeout: 15_000,
  requestTimeout: 120_000,
  keepAliveTimeout: 75_000,
  stalledReaderTimeout: 120_000,
  connectionsCheckingInterval: 5_000,
};

const MAX_HEADERS = 100;

/** For a client to read its error before the connection goes. */
const LINGER_MS = 1000;

export interface Transport {
  readonly server: Server;
  readonly scheme: 'http' | 'https';
}

/** @throws AppError `startup` for a certificate that cannot be used */
export function createTransport(
  config: Config,
  logger: Logger,
  handle: RequestListener,
  timeouts: Timeouts = TIMEOUTS,
): Transport {
  const { stalledReaderTimeout, ...ofNode } = timeouts;
  const options: ServerOptions = { ...ofNode, maxHeaderSize: config.limits.header_bytes };
  const replies = new WeakMap<Duplex, ServerResponse>();
  const listener: RequestListener = (incoming, outgoing) => {
    replies.set(incoming.socket, outgoing);
    cutOffWhenStalled(outgoing, stalledReaderTimeout);
    if (incoming.rawHeaders.length > 2 * MAX_HEADERS) refuseHeaders(incoming, outgoing);
    else handle(incoming, outgoing);
  };
  const transport = open(config, logger, options, listener);
  // Node would drop what is over its own limit without a word; the listener counts instead.
  transport.server.maxHeadersCount = 0;
  transport.server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    const reply = replies.get(socket);
    const isBusy =
      reply !== undefined && !reply.writableFinished && (reply.headersSent || reply.req.complete);
    // Opened ahead and never used: an error now might cross a first request, and be read as the reply to it.
    const isUnused = 'bytesRead' in socket && socket.bytesRead === 0;
    // In the middle of another reply an error would be read as a part of that.
    if (isBusy || isUnused || !socket.writable || error.code === 'ECONNRESET') socket.destroy();
    else endWithError(socket, transportError(error.code));
  });
  return transport;
}

/** Its sequence may wait for the reader, but not for ever. A reply that is not there yet may take its time. */
function cutOffWhenStalled(outgoing: ServerResponse, ms: number): void {
  outgoing.setTimeout(ms, () => {
    const { socket } = outgoing;
    if (socket !== null && socket.writableLength > 0) socket.destroy();
  });
}

function open(config: Config, logger: Logger, options: ServerOptions, listener: RequestListener): Transport {
  const files = tlsFiles(config);
  if (files === null) return { server: createServer(options, listener), scheme: 'http' };
  const server = createTlsServer(
    { ...options, ...readCertificate(files), handshakeTimeout: TIMEOUTS.headersTimeout },
    listener,
  );
  const watch = renewCertificate(server, files, logger);
  server.once('close', () => {
    watch.close();
  });
  return { server, scheme: 'https' };
}

/** By the code that Node gives an error of its parser or timers. */
function transportError(code: string | undefined): AppError {
  if (code === 'HPE_HEADER_OVERFLOW') return new AppError('headers_too_large', 'expected shorter headers');
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new AppError('request_timeout', 'expected the request to be sent faster');
  return new AppError('invalid_request', 'expected a request in HTTP/1.1');
}

function refuseHeaders(incoming: IncomingMessage, outgoing: ServerResponse): void {
  const error = new AppError('headers_too_large', `expected at most ${MAX_HEADERS} headers`);
  const body = JSON.stringify({ error: error.toBody() });
  outgoing.writeHead(error.status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    [REQUEST_ID_HEADER]: chooseRequestId(incoming.headers[REQUEST_ID_HEADER]?.toString()),
    connection: 'close',
  });
  outgoing.end(body);
}

/** Sends an error where there is no request to answer, and ends the connection even if the other side keeps its half. */
export function endWithError(
  socket: Duplex,
  error: AppError,
  headers: readonly (readonly [string, string])[] = [],
): void {
  socket.end(rawReply(error, headers));
  const timer = setTimeout(() => socket.destroy(), LINGER_MS).unref();
  socket.once('close', () => {
    clearTimeout(timer);
  });
}

/** A whole reply for a socket that no request came from; the connection ends with it. */
function rawReply(error: AppError, headers: readonly (readonly [string, string])[] = []): string {
  const body = JSON.stringify({ error: error.toBody() });
  const lines = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? ''}`,
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(body)}`,
    `${REQUEST_ID_HEADER}: ${chooseRequestId(undefined)}`,
    'connection: close',
    ...headers.map(([name, value]) => `${name}: ${value}`),
  ];
  return `${lines.join('\r\n')}\r\n\r\n${body}`;
}
