/** A request's conversation: what the response it continues left behind, then its own input. */
import { AppError } from '../../errors.ts';
import type { ConversationItem, InputItem } from '../schemas/response-items.ts';
import type { ResponseBody } from '../schemas/responses.ts';
import type { PlacedItem } from './conversation.ts';
import type { ResponseMemory, Turn } from './store.ts';

export interface Conversation {
  readonly earlier: readonly Turn[];
  /** The request's own items, references replaced by what they stand for. */
  readonly input: readonly ConversationItem[];
}

/** @throws AppError `previous_response_not_found`, `invalid_request` */
export function readConversation(
  { input, previous_response_id: previousId }: ResponseBody,
  memory: ResponseMemory,
  client: string | null,
): Conversation {
  const previous = typeof previousId === 'string' ? memory.get(previousId, client) : null;
  if (typeof previousId === 'string' && previous === null) {
    throw new AppError(
      'previous_response_not_found',
      `expected the id of a stored response, got ${JSON.stringify(previousId.slice(0, 100))}`,
      { param: 'previous_response_id' },
    );
  }
  const isEmpty = input === undefined || input === null || (typeof input !== 'string' && input.length === 0);
  if (isEmpty && previous === null) {
    throw new AppError('invalid_request', 'input: expected text or items, or a previous_response_id', {
      param: 'input',
    });
  }
  const items: InputItem[] = typeof input === 'string' ? [{ role: 'user', content: input }] : (input ?? []);
  return {
    earlier: previous?.turns ?? [],
    input: items.map((item, i) => resolve(item, `input[${i}].id`, memory, client)),
  };
}

function resolve(
  item: InputItem,
  param: string,
  memory: ResponseMemory,
  client: string | null,
): ConversationItem {
  if (item.type !== 'item_reference') return item;
  const found = memory.item(item.id, client);
  if (found !== null) return found;
  throw new AppError(
    'invalid_request',
    `${param}: expected the id of an item of a stored response, got ${JSON.stringify(item.id.slice(0, 100))}`,
    { param },
  );
}

/** All items in order, with the field that each came in. */
export function placedItems({ earlier, input }: Conversation): PlacedItem[] {
  const before = earlier.flatMap((turn) => [...turn.input, ...turn.output]);
  return [
    ...before.map((item) => ({ item, param: 'previous_response_id' })),
    ...input.map((item, i) => ({ item, param: `input[${i}]` })),
  ];
}
