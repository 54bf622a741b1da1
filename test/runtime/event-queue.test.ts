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

describe('a reader that falls behind', () => {
  /** A queue for 8 unread events, and what it told whoever pushes. */
  function bounded() {
    const told: string[] = [];
    const flow = { limit: 8, pause: () => told.push('pause'), resume: () => told.push('resume') };
    const queue = new EventQueue(flow);
    const push = (count: number) => {
      for (let i = 0; i < count; i++) queue.push(token(i));
    };
    return { told, queue, push, reader: queue[Symbol.asyncIterator]() };
  }

  test('pauses with more than the limit, once, and resumes with a quarter left', async () => {
    const { told, push, reader } = bounded();
    push(8);
    expect(told).toEqual([]);
    push(5);
    expect(told).toEqual(['pause']);
    for (let i = 0; i < 10; i++) await reader.next();
    expect(told).toEqual(['pause']);
    await reader.next();
    expect(told).toEqual(['pause', 'resume']);
    push(7);
    expect(told).toEqual(['pause', 'resume', 'pause']);
  });

  test('resumes nothing that has ended', async () => {
    const { told, queue, push, reader } = bounded();
    push(9);
    queue.push(done);
    while ((await reader.next()).done !== true);
    expect(told).toEqual(['pause']);
    const left = bounded();
    left.push(9);
    left.queue.end();
    expect((await left.reader.next()).done).toBe(true);
    expect(left.told).toEqual(['pause']);
  });

  test('one that reads at once pauses nothing', async () => {
    const { told, queue, push } = bounded();
    const read = readAll(queue);
    for (let turn = 0; turn < 50; turn++) {
      push(8);
      await new Promise(setImmediate);
    }
    queue.push(done);
    expect(await read).toHaveLength(401);
    expect(told).toEqual([]);
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
