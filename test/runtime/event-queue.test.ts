/** Events between the pushing thread and the reading loop: order, ends, and no lost wake-up. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { EventQueue } from '../../src/runtime/event-queue.ts';
import type { EngineEvent } from '../../src/runtime/protocol.ts';

const token = (tokenId: number): EngineEvent => ({ type: 'token', choice: 0, tokenId, logprobs: null });
const done: EngineEvent = {
  type: 'done',
  usage: { promptTokens: 1, cachedTokens: 0, completionTokens: 1 },
  timings: { queueMs: 0, prefillMs: 0, ttftMs: 0, decodeMs: 0 },
  pruning: null,
};
const error: EngineEvent = { type: 'error', code: 'internal', message: 'broken', param: null };

async function readAll(queue: EventQueue): Promise<EngineEvent[]> {
  const events: EngineEvent[] = [];
  for await (const event of queue) events.push(event);
  return events;
}

describe('the last event', () => {
  test.each([done, error])('$type ends the loop, and nothing comes after it', async (last) => {
    const queue = new EventQueue();
    const read = readAll(queue);
    queue.push(token(1));
    expect(queue.isComplete).toBe(false);
    queue.push(last);
    queue.push(token(2));
    expect(queue.isComplete).toBe(true);
    expect(await read).toEqual([token(1), last]);
  });

  test('events that came before anybody read are kept', async () => {
    const queue = new EventQueue();
    queue.push(token(1));
    queue.push(done);
    expect(await readAll(queue)).toEqual([token(1), done]);
  });
});

describe('a reader that ends early', () => {
  test('wakes a waiting reader, who hears nothing more', async () => {
    const queue = new EventQueue();
    const read = readAll(queue);
    queue.push(token(1));
    await Promise.resolve();
    queue.end();
    queue.push(token(2));
    queue.push(done);
    expect(await read).not.toContainEqual(token(2));
    expect(queue.isComplete).toBe(false);
  });

  test('drops what was not read yet', async () => {
    const queue = new EventQueue();
    queue.push(token(1));
    queue.end();
    expect(await readAll(queue)).toEqual([]);
  });

  test('after the last event, the request counts as complete', () => {
    const queue = new EventQueue();
    queue.push(done);
    queue.end();
    expect(queue.isComplete).toBe(true);
  });
});

test('whatever the rhythm, a reader hears all events up to the last one, in order', async () => {
  const step = fc.oneof(
    fc.record({ push: fc.constantFrom(1, 2, 3) }),
    fc.record({ pauses: fc.integer({ min: 1, max: 4 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.boolean(), async (steps, readFirst) => {
      const queue = new EventQueue();
      let read = readFirst ? readAll(queue) : null;
      const pushed: EngineEvent[] = [];
      for (const { push = 0, pauses = 0 } of steps as { push?: number; pauses?: number }[]) {
        for (let i = 0; i < push; i++) {
          pushed.push(token(pushed.length));
          queue.push(pushed.at(-1)!);
        }
        for (let i = 0; i < pauses; i++) await Promise.resolve();
        read ??= readAll(queue);
      }
      queue.push(done);
      expect(await (read ?? readAll(queue))).toEqual([...pushed, done]);
    }),
    { numRuns: 100, seed: 11 },
  );
});
