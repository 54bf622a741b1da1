/** The order in which OpenAI sends a response's events, as a state machine written from its reference. */
import { expect } from 'vitest';

export interface AnyEvent {
  type: string;
  sequence_number: number;
  [field: string]: unknown;
}

interface Item {
  id: string;
  type: string;
  status: string;
  arguments?: string;
  name?: string;
  content?: { type: string; text: string; logprobs?: unknown[] }[];
}

/** Names of events by type of item: what grows it, what says that it has grown. */
const TEXT = {
  message: { part: 'output_text', delta: 'response.output_text.delta', done: 'response.output_text.done' },
  reasoning: {
    part: 'reasoning_text',
    delta: 'response.reasoning_text.delta',
    done: 'response.reasoning_text.done',
  },
} as const;

/** Reads the events of a whole stream, fails on the first that is out of order, and returns the last response. */
export function checkEventOrder(events: readonly AnyEvent[]): Record<string, unknown> {
  expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, i) => i));
  const rest = [...events];
  const next = (type: string) => {
    const event = rest.shift();
    expect(event?.type).toBe(type);
    return event as AnyEvent;
  };
  const created = next('response.created').response as Record<string, unknown>;
  expect(created).toMatchObject({ object: 'response', status: 'in_progress', output: [], usage: null });
  expect(next('response.in_progress').response).toEqual(created);
  const items: Item[] = [];
  while (rest[0]?.type === 'response.output_item.added') items.push(readItem(rest, next, items.length));
  const last = rest.shift();
  expect(rest).toEqual([]);
  const response = last?.response as Record<string, unknown>;
  expect(last?.type).toBe(`response.${String(response.status)}`);
  expect(['completed', 'incomplete', 'failed']).toContain(response.status);
  expect(response.output).toEqual(items);
  expect(response).toMatchObject({ id: created.id, created_at: created.created_at, model: created.model });
  return response;
}

function readItem(rest: AnyEvent[], next: (type: string) => AnyEvent, index: number): Item {
  const added = next('response.output_item.added');
  const item = added.item as Item;
  expect(added.output_index).toBe(index);
  expect(item.status).toBe('in_progress');
  const place = { item_id: item.id, output_index: index };
  if (item.type === 'function_call') {
    expect(item.arguments).toBe('');
    const text = readDeltas(rest, 'response.function_call_arguments.delta', place);
    const done = next('response.function_call_arguments.done');
    expect(done).toMatchObject({ ...place, arguments: text, name: item.name });
    return readDone(next, item, index, { arguments: text });
  }
  const names = TEXT[item.type as keyof typeof TEXT];
  expect(item.content).toEqual([]);
  const where = { ...place, content_index: 0 };
  const part = next('response.content_part.added');
  expect(part).toMatchObject({ ...where, part: { type: names.part, text: '' } });
  const logprobs: unknown[] = [];
  const text = readDeltas(rest, names.delta, where, logprobs);
  const done = next(names.done);
  expect(done).toMatchObject({ ...where, text });
  if (item.type === 'message') expect(done.logprobs).toEqual(logprobs);
  const partDone = next('response.content_part.done');
  expect(partDone).toMatchObject({ ...where, part: { type: names.part, text } });
  return readDone(next, item, index, { content: [partDone.part] });
}

function readDeltas(rest: AnyEvent[], type: string, place: object, logprobs: unknown[] = []): string {
  let text = '';
  while (rest[0]?.type === type) {
    const event = rest.shift();
    expect(event).toMatchObject(place);
    text += String(event?.delta);
    logprobs.push(...((event?.logprobs ?? []) as unknown[]));
  }
  return text;
}

function readDone(next: (type: string) => AnyEvent, item: Item, index: number, grown: object): Item {
  const done = next('response.output_item.done');
  const { status } = done.item as Item;
  expect(['completed', 'incomplete']).toContain(status);
  expect(done).toMatchObject({ output_index: index, item: { ...item, status, ...grown } });
  return done.item as Item;
}
