/** Turns HTTP requests that ask for it into WebSocket connections, once the caller may and there is room. */
import type { IncomingMessage, Server } from 'node:http';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { WebSocketServer } from 'ws';
import { AppError } from '../../errors.ts';
import { CHALLENGE, chooseSubprotocol } from '../auth.ts';
import type { ServerContext } from '../context.ts';
import { LiveSet } from '../live-set.ts';
import { PRUNING_HEADER } from '../pruning.ts';
import { countFailure } from '../request-meter.ts';
import { RequestRecord } from '../request-record.ts';
import { traceHeaders } from '../trace-context.ts';
import { endWithError } from '../transport.ts';
import { Connection } from './connection.ts';
import type { ConnectionOptions } from './connection.ts';
import { DIALECTS } from './dialect.ts';

/** RFC 6455's registry: try again later. */
const CLOSE_TRY_AGAIN_LATER = 1013;

export class WebSocketUpgrades {
  readonly #context: ServerContext;
  readonly #server: Server;
  readonly #sockets: WebSocketServer;
  readonly #connections = new LiveSet<Connection>();

  constructor(context: ServerContext, server: Server) {
    this.#context = context;
    this.#server = server;
    this.#sockets = new WebSocketServer({
      noServer: true,
      clientTracking: true,
      perMessageDeflate: false,
      maxPayload: context.config.limits.frame_bytes,
      handleProtocols: chooseSubprotocol,
    });
    this.#sockets.on('wsClientError', (error, socket) => {
      endWithError(
        socket,
        new AppError('invalid_request', `expected a WebSocket handshake: ${error.message}`),
      );
    });
    server.on('upgrade', (request: IncomingMessage, _: unknown, head: Buffer) => {
      this.#upgrade(request, request.socket, head);
    });
  }

  /** Closes every connection with 1001 once its work has ended, and cuts off what is left after `timeoutMs`. */
  async drain(timeoutMs: number): Promise<void> {
    for (const connection of this.#connections) connection.drain();
    await this.#connections.emptied(timeoutMs);
    for (const socket of this.#sockets.clients) socket.terminate();
  }

  #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    socket.on('error', () => undefined);
    if (request.headers.upgrade?.toLowerCase() !== 'websocket') {
      replayWithoutUpgrade(this.#server, request, socket, head);
      return;
    }
    let options: ConnectionOptions;
    try {
      options = this.#admit(request);
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      this.#refuse(error, socket);
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (websocket) => {
      const { max_connections: max } = this.#context.config.websocket;
      if (this.#connections.size >= max) {
        websocket.on('error', () => undefined);
        websocket.close(CLOSE_TRY_AGAIN_LATER, `expected at most ${max} connections`);
        return;
      }
      const connection = new Connection(this.#context, websocket, socket, options);
      this.#connections.add(connection);
      websocket.once('close', () => {
        this.#connections.delete(connection);
      });
    });
  }

  /** @throws AppError */
  #admit(request: IncomingMessage): ConnectionOptions {
    const client = this.#context.gate.admitUpgrade(request.headers);
    const path = (request.url ?? '').replace(/\?.*$/s, '');
    const dialect = DIALECTS.get(path);
    if (dialect === undefined)
      throw new AppError('not_found', `no WebSocket at ${JSON.stringify(path.slice(0, 200))}`);
    this.#context.models.checkOpen();
    const header = request.headers[PRUNING_HEADER];
    return {
      path,
      dialect,
      client: client.keyName,
      pruningHeader: typeof header === 'string' ? header : undefined,
      traceHeaders: traceHeaders(request.headers),
    };
  }

  #refuse(error: AppError, socket: Socket): void {
    const record = new RequestRecord();
    record.error = error.label;
    countFailure(this.#context, record);
    this.#context.logger.info({ method: 'WS', status: error.status, error: record.error }, 'request');
    endWithError(socket, error, error.status === 401 ? [CHALLENGE] : []);
  }
}

/**
 * Some HTTP clients offer to go on in HTTP/2 with each request; a server that does not want to just answers. Once
 * Node has seen somebody listen for upgrades it answers no more, so the request is read again without the offer.
 */
function replayWithoutUpgrade(server: Server, request: IncomingMessage, socket: Socket, head: Buffer): void {
  const lines = [`${request.method ?? 'GET'} ${request.url ?? '/'} HTTP/${request.httpVersion}`];
  const { rawHeaders } = request;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const [name = '', value = ''] = rawHeaders.slice(i, i + 2);
    if (!/^(upgrade|connection|http2-settings)$/i.test(name)) lines.push(`${name}: ${value}`);
  }
  socket.removeAllListeners('error');
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]));
  server.emit(socket instanceof TLSSocket ? 'secureConnection' : 'connection', socket);
}
