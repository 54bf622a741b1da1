/** Binds the app to a socket, and stops it without cutting off running work. */
import type { Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { AppError, errorMessage } from '../errors.ts';
import { createApp } from './app.ts';
import { createServerContext } from './context.ts';
import type { ServerOptions } from './context.ts';
import { LiveSet } from './live-set.ts';
import { REQUEST_ID_HEADER, chooseRequestId } from './request-id.ts';
import { createTransport } from './transport.ts';
import { WebSocketUpgrades } from './websocket/upgrade.ts';

export interface Listener {
  /** Such as `http://127.0.0.1:8000`. */
  readonly url: string;
  /** Takes no new work, waits for running work up to `timeoutMs`, then closes every connection. */
  drain(timeoutMs: number): Promise<void>;
}

/** @throws AppError `startup` when the address cannot be had, or a file of keys or certificates cannot be used */
export async function listen(options: ServerOptions): Promise<Listener> {
  const context = createServerContext(options);
  const { host, port } = context.config;
  const app = createApp(context);
  const handle = getRequestListener(app.fetch, { errorHandler: refuseRequest, hostname: host });
  /** Being written to requests that can start work: all but reads. */
  const replies = new LiveSet<ServerResponse>();
  const { server, scheme } = createTransport(options.config, options.logger, (incoming, outgoing) => {
    if (incoming.method === 'POST') track(outgoing, replies);
    void handle(incoming, outgoing);
  });
  const sockets = new WebSocketUpgrades(context, server);
  await bind(server, host, port);
  return {
    url: formatUrl(scheme, host, (server.address() as AddressInfo).port),
    async drain(timeoutMs) {
      context.models.startDraining();
      await Promise.all([replies.emptied(timeoutMs), sockets.drain(timeoutMs)]);
      context.gate.close();
      await new Promise<void>((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      });
    },
  };
}

function track(outgoing: ServerResponse, replies: LiveSet<ServerResponse>): void {
  replies.add(outgoing);
  outgoing.once('close', () => {
    replies.delete(outgoing);
  });
}

function bind(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new AppError('startup', `cannot listen on ${host}:${port}: ${errorMessage(error)}`, { cause: error }),
      );
    });
    server.listen(port, host, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

/** An IPv6 address stands in brackets. */
function formatUrl(scheme: string, host: string, port: number): string {
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** For what never reaches the app: a request target or host header that makes no URL. */
function refuseRequest(error: unknown): Response {
  const body = new AppError('invalid_request', `bad request: ${errorMessage(error)}`).toBody();
  return Response.json(
    { error: body },
    { status: 400, headers: { [REQUEST_ID_HEADER]: chooseRequestId(undefined) } },
  );
}
