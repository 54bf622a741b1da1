/** Whatever a model says, the events of a response tell it in OpenAI's order and come to the same in the end. */
import fc from 'fast-check';
import { accumulateResponse } from 'openai/lib/responses/ResponseAccumulator';
import { expect, test } from 'vitest';
import { ResponseEvents } from '../../../src/server/responses/events.ts';
import type { ResponseEvent } from '../../../src/server/responses/events.ts';
import { checkEventOrder } from './event-order.ts';

type Step =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'reasoning'; readonly text: string }
  | { readonly kind: 'call'; readonly name: string; readonly pieces: readonly string[] };

const piece = fc.string({ maxLength: 6 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('text' as const), text: piece }),
  fc.record({ kind: fc.constant('reasoning' as const), text: piece }),
  fc.record({ kind: fc.constant('call' as const), name: fc.constantFrom('f', 'g'), pieces: fc.array(piece) }),
);

function play(steps: readonly Step[], status: 'completed' | 'incomplete'): ResponseEvent[] {
  const events = new ResponseEvents();
  const response = {
    id: 'resp_1',
    object: 'response',
    created_at: 1,
    model: 'm',
    status: 'in_progress',
    output: [],
    usage: null,
  };
  const all = [
    events.lifecycle('response.created', response),
    events.lifecycle('response.in_progress', response),
  ];
  for (const one of steps) {
    if (one.kind === 'text') all.push(...events.text(one.text));
    else if (one.kind === 'reasoning') all.push(...events.reasoning(one.text));
    else {
      all.push(...events.call(one.name, 'call_1'));
      for (const text of one.pieces) all.push(...events.callArguments(text));
    }
  }
  all.push(...events.end(status));
  all.push(events.lifecycle(`response.${status}`, { ...response, status, output: events.output }));
  return all;
}

/** What the steps say, neighbours of a kind as one. */
function said(steps: readonly Step[]): [string, string][] {
  const items: [string, string][] = [];
  for (const one of steps) {
    const type = { text: 'message', reasoning: 'reasoning', call: 'function_call' }[one.kind];
    const last = items.at(-1);
    if (one.kind === 'call') items.push([type, one.pieces.join('')]);
    else if (last?.[0] === type) last[1] += one.text;
    else items.push([type, one.text]);
  }
  return items.length === 0 ? [['message', '']] : items;
}

test('events are in order, and their deltas add up to what was said', () => {
  fc.assert(
    fc.property(
      fc.array(step),
      fc.constantFrom('completed' as const, 'incomplete' as const),
      (steps, status) => {
        const events = play(steps, status);
        const { output } = checkEventOrder(structuredClone(events)) as {
          output: { type: string; status: string; arguments?: string; content?: { text: string }[] }[];
        };
        const texts = output.map((item) => [item.type, item.arguments ?? item.content?.[0]?.text ?? '']);
        expect(texts).toEqual(said(steps));
        // Only the item that was cut off is incomplete.
        expect(output.map((item) => item.status)).toEqual(
          output.map((_, i) => (i === output.length - 1 ? status : 'completed')),
        );
      },
    ),
  );
});

test("the official client's accumulator comes to the same output before the last event says it", () => {
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const events = play(steps, 'completed') as unknown as Parameters<typeof accumulateResponse>[0][];
      let snapshot: ReturnType<typeof accumulateResponse> | undefined;
      for (const event of events.slice(0, -1)) snapshot = accumulateResponse(event, snapshot);
      const last = events.at(-1) as { response: { output: unknown } };
      expect(snapshot?.output).toEqual(last.response.output);
    }),
  );
});

test('an error takes the next number and says what went wrong at the top and inside', () => {
  const events = new ResponseEvents();
  expect([...events.text('a')]).toHaveLength(3);
  const error = { message: 'm', type: 'server_error', param: null, code: 'timeout' };
  expect(events.error(error)).toEqual({
    type: 'error',
    sequence_number: 3,
    code: 'timeout',
    message: 'm',
    param: null,
    error,
  });
});

test('events keep what they said when the item grows', () => {
  const events = new ResponseEvents();
  const [added, part] = [...events.text('a')];
  expect([...events.text('b'), ...events.end('completed')]).toHaveLength(4);
  expect(added?.item).toMatchObject({ status: 'in_progress', content: [] });
  expect(part?.part).toMatchObject({ text: '' });
});
