/** Server-sent events: a reply that starts with its first due byte, keeps alive with comments and never runs ahead. */
import type { AppContext } from './context.ts';
import type { SseFraming } from './operation.ts';
import { withinMs } from './within-ms.ts';

const PING = ': ping\n\n';

/** As most routes of OpenAI frame their streams. */
export const PLAIN_SSE: SseFraming = { frame, end: 'data: [DONE]\n\n' };

export interface SseOptions {
  readonly framing: SseFraming;
  readonly pingMs: number;
  /** Called when the client leaves before the end. */
  readonly onCancel: () => void;
  /** The last object in place of the rest, for an error after the first byte; null when nobody reads it. */
  readonly toErrorObject: (error: unknown) => object | null;
}

function frame(event: object): string {
  return `data: ${JSON.stringify(event)}\n\n`;
}

/**
 * Replies once the first event or the first ping is due. An event is asked for only when the socket takes more,
 * so a slow reader pauses its own sequence.
 * @throws whatever the events throw before the first byte
 */
export async function streamEvents(
  c: AppContext,
  events: AsyncGenerator<object, void, void>,
  options: SseOptions,
): Promise<Response> {
  const { framing } = options;
  const pieces = withPings(events, framing, options.pingMs);
  const first = await pieces.next();
  let pending: IteratorResult<string, void> | null = first;
  let settleEnd: () => void = () => undefined;
  c.get('record').streamEnd = new Promise((resolve) => (settleEnd = resolve));
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const piece: IteratorResult<string, void> = pending ?? (await pieces.next());
          pending = null;
          const text = piece.done === true ? framing.end : piece.value;
          if (text !== '') controller.enqueue(encoder.encode(text));
          if (piece.done !== true) return;
        } catch (error) {
          const last = options.toErrorObject(error);
          if (last !== null) controller.enqueue(encoder.encode(framing.frame(last)));
        }
        controller.close();
        settleEnd();
      },
      async cancel() {
        options.onCancel();
        try {
          await pieces.return();
        } finally {
          settleEnd();
        }
      },
    },
    { highWaterMark: 0 },
  );
  c.header('content-type', 'text/event-stream; charset=utf-8');
  c.header('cache-control', 'no-cache');
  c.header('x-accel-buffering', 'no');
  return c.body(body);
}

/** Frames of the events, and a comment whenever `pingMs` have gone by since the last. */
async function* withPings(
  events: AsyncGenerator<object, void, void>,
  framing: SseFraming,
  pingMs: number,
): AsyncGenerator<string, void, void> {
  let next = events.next();
  let pingAtMs = performance.now() + pingMs;
  try {
    for (;;) {
      const result = await withinMs(next, pingAtMs - performance.now());
      if (result === null) {
        yield PING;
        pingAtMs = performance.now() + pingMs;
        continue;
      }
      if (result.done === true) return;
      yield framing.frame(result.value);
      next = events.next();
    }
  } finally {
    next.catch(() => undefined);
    await events.return();
  }
}
