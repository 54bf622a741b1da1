/** What frames are called on each WebSocket path, and which operation answers them. */
import type { ServerContext } from '../context.ts';
import type { Operation } from '../operation.ts';
import { chatCompletions } from '../operations/chat-completions.ts';
import { responses } from '../operations/responses.ts';
import { ConnectionMemory } from '../responses/store.ts';

export interface Dialect {
  /** `type` of a frame that asks for work; the rest of the frame is the route's body. */
  readonly createType: string;
  /** `type` of a frame that ends a lane's running work early; null = there is none. */
  readonly cancelType: string | null;
  /** `type` of the frame behind the last object of a stream; null = that object says it. */
  readonly doneType: string | null;
  /** Made once a connection, which may remember things. */
  createOperation(context: ServerContext): Operation;
}

/** Of responses that a connection remembers, the ones that it alone may continue included. */
const CONNECTION_MEMORY_BYTES = 8 * 2 ** 20;

export const DIALECTS: ReadonlyMap<string, Dialect> = new Map<string, Dialect>([
  [
    '/v1/responses',
    {
      createType: 'response.create',
      cancelType: null,
      doneType: null,
      createOperation: (context) =>
        responses(context, new ConnectionMemory(context.responses, CONNECTION_MEMORY_BYTES)),
    },
  ],
  [
    '/v1/chat/completions',
    {
      createType: 'chat.completion.create',
      cancelType: 'chat.completion.cancel',
      doneType: 'chat.completion.done',
      createOperation: chatCompletions,
    },
  ],
]);
