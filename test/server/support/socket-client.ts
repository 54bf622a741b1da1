/** A WebSocket client that keeps what it hears. */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { WebSocket } from 'ws';
import type { ClientOptions } from 'ws';

export type Heard = Record<string, unknown> & { type?: string; stream_id?: string };

export class SocketClient {
  readonly socket: WebSocket;
  readonly heard: Heard[] = [];
  /** Code and reason, once closed. */
  readonly closed: Promise<{ code: number; reason: string }>;
  #wake: () => void = () => undefined;

  constructor(url: string, options: ClientOptions = {}) {
    this.socket = new WebSocket(url.replace(/^http/, 'ws'), options);
    this.socket.on('message', (data) => {
      this.heard.push(JSON.parse((data as Buffer).toString()) as Heard);
      this.#wake();
    });
    this.socket.on('error', () => undefined);
    this.closed = once(this.socket, 'close').then((args: unknown[]) => {
      const [code, reason] = args as [number, Buffer];
      this.#wake();
      return { code, reason: reason.toString() };
    });
  }

  static async open(url: string, options: ClientOptions = {}): Promise<SocketClient> {
    const client = new SocketClient(url, options);
    await once(client.socket, 'open');
    return client;
  }

  send(frame: unknown): void {
    this.socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  }

  /** The first heard message that satisfies the condition, now or later. */
  async until(condition: (heard: Heard) => boolean): Promise<Heard> {
    const deadlineMs = performance.now() + 30_000;
    for (;;) {
      const found = this.heard.find(condition);
      if (found !== undefined) return found;
      const waitMs = deadlineMs - performance.now();
      if (waitMs < 0 || this.socket.readyState === WebSocket.CLOSED)
        throw new Error(`not heard; last: ${JSON.stringify(this.heard.slice(-3))}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, waitMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** What was heard in one lane. */
  lane(streamId: string): Heard[] {
    return this.heard.filter(({ stream_id: id }) => id === streamId);
  }

  async close(): Promise<void> {
    this.socket.close();
    await this.closed;
  }
}

/** What an upgrade is refused with. */
export async function refusal(url: string, options: ClientOptions = {}) {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), options);
  socket.on('error', () => undefined);
  const [, response] = (await once(socket, 'unexpected-response')) as [unknown, IncomingMessage];
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return {
    status: response.statusCode,
    headers: response.headers,
    error: (JSON.parse(text) as { error: object }).error,
  };
}
