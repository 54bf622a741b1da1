/** Pings a peer, and cuts it off when it has gone without a trace. */
import type { Socket } from 'node:net';
import type { WebSocket } from 'ws';

/**
 * Signs of life since the last ping: a pong, any frame, or bytes of ours that left; a reader that is merely slow sees
 * the ping late, but takes what stands before it.
 */
export function keepAlive(socket: WebSocket, transport: Socket, pingMs: number): void {
  let isAlive = true;
  let numSent = 0;
  const note = () => {
    isAlive = true;
  };
  socket.on('pong', note);
  socket.on('message', note);
  const timer = setInterval(() => {
    const sent = transport.bytesWritten - transport.writableLength;
    if (!isAlive && sent <= numSent) {
      socket.terminate();
      return;
    }
    isAlive = false;
    socket.ping(() => undefined);
    numSent = transport.bytesWritten - transport.writableLength;
  }, pingMs).unref();
  socket.once('close', () => {
    clearInterval(timer);
  });
}
