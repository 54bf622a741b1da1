/** The engine in its own thread: many requests at once, leaving early, closing. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import type { Engine, EngineEvent, GenerationRequest } from '../../src/runtime/protocol.ts';
import { collect, settled, start, tokensOf, until } from './support/client.ts';
import { loadModel, makeIds, makeRequest, runAlone, STORIES } from './support/engine.ts';

let engine: Engine;
let model: Model;
beforeAll(async () => {
  engine = await start();
  model = await loadModel(STORIES);
});
afterAll(() => engine.close());

/** A queue stays full: it asks for far more tokens than any test waits for. */
const endless = () => makeRequest([1], { maxTokens: 500 });

test('the model, the state and a reply are those of the engine in this thread', async () => {
  expect(engine.model).toEqual(model.info);
  expect(engine.isReady).toBe(true);
  const request = makeRequest(makeIds(30, 512, 1), {
    maxTokens: 12,
    numChoices: 2,
    sampling: { temperature: 0.7, seed: 9, logprobs: 2 },
    promptLogprobs: 1,
  });
  const events = await collect(engine, request);
  const here = (await runAlone(model, request)).events;
  const exact = (all: readonly EngineEvent[]) =>
    all.map((event) => ({ ...event, timings: null, arrivedMs: null }));
  expect(exact(events)).toEqual(exact(here));
  const stats = await settled(engine);
  expect(stats).toMatchObject({ kvBytes: 0, kvLimitBytes: 2 ** 24, promptTokens: 30, generatedTokens: 24 });
});

describe('fifty requests at once', () => {
  /** How a client leaves: it stays, aborts, or breaks out of its loop, after so many events. */
  type Leaving = { kind: 'stays' } | { kind: 'aborts' | 'breaks'; after: number };

  function leavingOf(i: number): Leaving {
    if (i % 5 < 2) return { kind: 'stays' };
    return { kind: i % 2 === 0 ? 'aborts' : 'breaks', after: (i * 3) % 11 };
  }

  async function read(request: GenerationRequest, leaving: Leaving): Promise<EngineEvent[]> {
    const controller = new AbortController();
    const events: EngineEvent[] = [];
    const isOver = () => leaving.kind !== 'stays' && events.length >= leaving.after;
    if (leaving.kind === 'aborts' && isOver()) controller.abort();
    for await (const event of engine.generate(request, controller.signal)) {
      events.push(event);
      if (leaving.kind === 'aborts' && isOver()) controller.abort();
      if (leaving.kind === 'breaks' && isOver()) break;
    }
    return events;
  }

  test('with cancels in between all end, and memory comes back', { timeout: 60_000 }, async () => {
    const requests = Array.from({ length: 50 }, (_, i) =>
      makeRequest(makeIds(1 + ((i * 37) % 180), 512, i % 7), {
        maxTokens: 3 + ((i * 5) % 17),
        numChoices: 1 + (i % 3),
        priority: i % 4,
        cachePrompt: i % 2 === 0,
        stopTokenIds: i % 3 === 0 ? [403] : [],
        sampling: { temperature: i % 2, seed: i },
      }),
    );
    const all = await Promise.all(requests.map((request, i) => read(request, leavingOf(i))));
    for (const [i, events] of all.entries()) {
      const leaving = leavingOf(i);
      if (leaving.kind !== 'stays') {
        expect(events.length).toBeLessThanOrEqual(Math.max(1, leaving.after));
        continue;
      }
      expect(events.at(-1)?.type).toBe('done');
      const alone = await runAlone(model, { ...requests[i]!, cachePrompt: false });
      for (let choice = 0; choice < requests[i]!.numChoices; choice++)
        expect(tokensOf(events, choice), `request ${i}`).toEqual(alone.tokens(choice));
    }
    const stats = await settled(engine);
    expect(stats.kvBytes).toBe(0);
    expect(stats.prefixCacheBytes).toBeLessThanOrEqual(2 ** 22);
    expect(tokensOf(await collect(engine, makeRequest([1, 2, 3])))).toHaveLength(8);
  });
});

describe('leaving', () => {
  /** Occupies the whole engine, so that the next request has to wait. */
  async function fill(): Promise<() => Promise<void>> {
    const controllers = Array.from({ length: 8 }, () => new AbortController());
    const streams = controllers.map(({ signal }) => collect(engine, endless(), signal));
    await until(async () => (await engine.stats()).running === 8, 'eight streams');
    return async () => {
      for (const controller of controllers) controller.abort();
      await Promise.all(streams);
      expect((await settled(engine)).kvBytes).toBe(0);
    };
  }

  test('an abort ends the loop of a waiting request, without an event', async () => {
    const release = await fill();
    const controller = new AbortController();
    const events = collect(engine, endless(), controller.signal);
    await until(async () => (await engine.stats()).waiting === 1, 'one waiting');
    controller.abort();
    expect(await events).toEqual([]);
    await until(async () => (await engine.stats()).waiting === 0, 'none waiting');
    await release();
  });

  test('returning from the iterator cancels even while the next event is awaited', async () => {
    const release = await fill();
    const iterator = engine.generate(endless())[Symbol.asyncIterator]();
    const next = iterator.next();
    await until(async () => (await engine.stats()).waiting === 1, 'one waiting');
    await iterator.return?.();
    expect(await next).toEqual({ done: true, value: undefined });
    await until(async () => (await engine.stats()).waiting === 0, 'none waiting');
    await release();
  });

  test('an aborted signal starts nothing; an abort after the end changes nothing', async () => {
    const { promptTokens } = await engine.stats();
    expect(await collect(engine, endless(), AbortSignal.abort())).toEqual([]);
    expect((await engine.stats()).promptTokens).toBe(promptTokens);
    const controller = new AbortController();
    expect((await collect(engine, makeRequest([1]), controller.signal)).at(-1)?.type).toBe('done');
    controller.abort();
    expect((await settled(engine)).kvBytes).toBe(0);
  });

  test('an iterator that is returned before its first event never was a request', async () => {
    const { promptTokens } = await engine.stats();
    const iterator = engine.generate(endless())[Symbol.asyncIterator]();
    await iterator.return?.();
    expect((await settled(engine)).promptTokens).toBe(promptTokens);
  });
});

test('a stopped choice ends, the other one goes on', async () => {
  const request = makeRequest([1, 403], { maxTokens: 30, numChoices: 2 });
  const events: EngineEvent[] = [];
  for await (const event of engine.generate(request)) {
    events.push(event);
    if (tokensOf(events, 1).length === 3) engine.stopChoice(request.id, 1);
  }
  expect(tokensOf(events, 0)).toHaveLength(30);
  expect(tokensOf(events, 1).length).toBeLessThan(30);
  expect(events).toContainEqual({ type: 'finished', choice: 1, reason: 'stop', stopTokenId: null });
});

test('an id that is in use is refused, and the one who uses it hears nothing of it', async () => {
  const request = makeRequest([1], { maxTokens: 20 });
  const first = collect(engine, request);
  await expect(collect(engine, request)).rejects.toThrow('in use');
  expect(tokensOf(await first)).toHaveLength(20);
});

describe('closing', () => {
  test('ends every request with an error, and may be asked twice', async () => {
    const own = await start({ maxRunning: 2 });
    const streams = [1, 2, 3, 4].map(() => collect(own, endless()));
    await until(async () => (await own.stats()).running === 2, 'two streams');
    const pending = own.stats();
    await Promise.all([own.close(), own.close()]);
    for (const events of await Promise.all(streams))
      expect(events.at(-1)).toMatchObject({ type: 'error', code: 'draining' });
    await expect(pending).resolves.toMatchObject({ kvLimitBytes: 2 ** 24 });
    expect(own.isReady).toBe(false);
    expect(await collect(own, endless())).toMatchObject([{ type: 'error', code: 'draining' }]);
    await own.close();
  });
});
