/** From token events to text: stop strings, held-back text, counts; streamed and whole replies say the same. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { merge } from '../../src/server/merge.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { DEMO_MODEL, createTestServer, parseEvents, readEvents } from './support/app.ts';
import { ScriptedEngine, done, finished, saying, token } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const tokenizer = Tokenizer.load(DEMO_MODEL);
const messages = [{ role: 'user', content: 'hello' }];

interface Whole {
  choices: { index: number; message: { content: string }; finish_reason: string }[];
  usage: Record<string, number>;
}
interface Chunk {
  choices: { index: number; delta: { role?: string; content?: string }; finish_reason: string | null }[];
  usage?: Record<string, number> | null;
  timings?: object;
}

/** Both kinds of reply to one script. */
async function both(engine: ScriptedEngine, body: object) {
  const server = createTestServer(engine);
  const whole = (await (await server.post(CHAT, { messages, ...body })).json()) as Whole;
  const options = { stream: true, stream_options: { include_usage: true } };
  const pieces = await readEvents(await server.post(CHAT, { messages, ...body, ...options }));
  return { whole, chunks: parseEvents<Chunk>(pieces), pieces };
}

function streamedText(chunks: readonly Chunk[], index = 0): string {
  return chunks
    .flatMap(({ choices }) => choices)
    .filter((choice) => choice.index === index)
    .map(({ delta }) => delta.content ?? '')
    .join('');
}

describe('stop strings', () => {
  const ids = tokenizer.encode('one two three four five', { addSpecialTokens: false });

  test('the match and all after it are cut, later tokens are dropped from usage, the engine is told', async () => {
    const engine = new ScriptedEngine(saying(ids, 'length'));
    const { whole, chunks } = await both(engine, { stop: [' three'] });
    expect(whole.choices[0]).toMatchObject({ message: { content: 'one two' }, finish_reason: 'stop' });
    expect(streamedText(chunks)).toBe('one two');
    const upToMatch = tokenizer.encode('one two three', { addSpecialTokens: false }).length;
    expect(whole.usage.completion_tokens).toBe(upToMatch);
    expect(chunks.at(-1)?.usage).toEqual(whole.usage);
    expect(engine.stopped).toEqual(engine.requests.map(({ id }) => [id, 0]));
  });

  test('min_tokens delays them', async () => {
    const engine = new ScriptedEngine(saying(ids, 'length'));
    const { whole, chunks } = await both(engine, { stop: ['t', 'f'], min_tokens: ids.length - 1 });
    const [choice] = whole.choices;
    expect(choice?.message.content.startsWith('one two three')).toBe(true);
    expect(choice?.message.content).toBe(streamedText(chunks));
  });

  test('text that might begin a stop string is held back, then released at the end', async () => {
    const { whole, chunks } = await both(new ScriptedEngine(saying(ids)), { stop: 'five six' });
    expect(whole.choices[0]?.message.content).toBe('one two three four five');
    expect(streamedText(chunks)).toBe('one two three four five');
  });

  test('an end of sequence that the engine sampled after the match does not count', async () => {
    const engine = new ScriptedEngine(function* (request) {
      for (const id of ids) yield token(id);
      yield { type: 'finished', choice: 0, reason: 'stop', stopTokenId: 2 };
      yield done(request, ids.length + 1);
    });
    const { whole } = await both(engine, { stop: ['five'] });
    expect(whole.usage.completion_tokens).toBe(ids.length);
  });

  test('one choice stops, the other goes on', async () => {
    const engine = new ScriptedEngine(function* (request) {
      for (const id of ids) yield token(id, 0);
      for (const id of ids.toReversed()) yield token(id, 1);
      yield finished('stop', 0);
      yield finished('length', 1);
      yield done(request, 2 * ids.length);
    });
    const { whole, chunks } = await both(engine, { n: 2, stop: ' two three' });
    expect(whole.choices.map((choice) => choice.finish_reason)).toEqual(['stop', 'length']);
    expect(whole.choices.map((choice) => choice.message.content)).toEqual([
      streamedText(chunks, 0),
      streamedText(chunks, 1),
    ]);
  });
});

test('streamed and whole replies agree on any tokens, choices and stop strings', async () => {
  const anyId = fc.oneof(fc.integer({ min: 4, max: 300 }), fc.integer({ min: 0, max: 1535 }));
  await fc.assert(
    fc.asyncProperty(
      fc.array(anyId, { maxLength: 25 }),
      fc.integer({ min: 1, max: 3 }),
      fc.array(fc.constantFrom('e', ' t', 'th', 'é', '\ufffd', 'in'), { maxLength: 3 }),
      async (ids, n, stop) => {
        const { whole, chunks, pieces } = await both(new ScriptedEngine(saying(ids)), { n, stop });
        expect(pieces.at(-1)).toBe('[DONE]');
        for (const choice of whole.choices) {
          const own = chunks.flatMap(({ choices }) => choices).filter(({ index }) => index === choice.index);
          expect(streamedText(chunks, choice.index)).toBe(choice.message.content);
          expect(own[0]?.delta).toEqual({ role: 'assistant', content: '' });
          expect(own.filter(({ finish_reason: reason }) => reason !== null)).toEqual([own.at(-1)]);
          expect(own.at(-1)).toMatchObject({ delta: {}, finish_reason: choice.finish_reason });
          for (const text of stop) expect(choice.message.content).not.toContain(text);
          if (stop.length === 0) expect(choice.message.content).toBe(tokenizer.decode(ids));
        }
        expect(chunks.at(-1)?.usage).toEqual(whole.usage);
      },
    ),
    { numRuns: 60 },
  );
});

test('usage and timings: on the usage chunk, else on the chunk with finish_reason', async () => {
  const server = createTestServer(new ScriptedEngine(saying([300, 301])));
  const read = async (body: object) =>
    parseEvents<Chunk>(await readEvents(await server.post(CHAT, { messages, stream: true, ...body })));
  const timings = {
    queue_ms: 1,
    prefill_ms: 20,
    ttft_ms: 25,
    decode_ms: 100,
    prompt_tokens_per_second: 600,
    tokens_per_second: 20,
  };
  const without = await read({});
  expect(without.every((chunk) => !('usage' in chunk))).toBe(true);
  expect(without.map((chunk) => 'timings' in chunk)).toEqual([false, false, false, true]);
  expect(without.at(-1)).toMatchObject({ choices: [{ delta: {}, finish_reason: 'stop' }], timings });
  const withUsage = await read({ stream_options: { include_usage: true } });
  expect(withUsage.slice(0, -1).every(({ usage }) => usage === null)).toBe(true);
  expect(withUsage.at(-1)).toMatchObject({
    choices: [],
    usage: {
      prompt_tokens: 12,
      completion_tokens: 2,
      total_tokens: 14,
      prompt_tokens_details: { cached_tokens: 0 },
    },
    timings,
  });
});

test('progress comes before the first content, summed over prompts', async () => {
  const engine = new ScriptedEngine(function* (request) {
    const total = request.promptIds.length;
    yield { type: 'progress', total, cached: 1, processed: 2, timeMs: 3.04 };
    yield token(300);
    yield finished();
    yield done(request, 1);
  });
  const body = {
    prompt: [
      [4, 5],
      [6, 7, 8],
    ],
    stream: true,
    return_progress: true,
  };
  const chunks = parseEvents<object>(
    await readEvents(await createTestServer(engine).post('/v1/completions', body)),
  );
  expect(chunks.slice(0, 2)).toMatchObject([
    { choices: [], prompt_progress: { total: 5, cache: 1, processed: 2, time_ms: 3 } },
    { choices: [], prompt_progress: { total: 5, cache: 2, processed: 4, time_ms: 3 } },
  ]);
});

describe('merge', () => {
  async function* counted(values: number[], log: string[] = []): AsyncGenerator<number> {
    try {
      for (const value of values) {
        await Promise.resolve();
        yield value;
      }
    } finally {
      log.push('left');
    }
  }

  test('keeps every source in order and loses nothing', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(fc.nat(9), { maxLength: 6 }), { maxLength: 5 }), async (lists) => {
        const seen: number[][] = lists.map(() => []);
        const sources = lists.map((list) => counted(list));
        for await (const [index, value] of merge(sources, new AbortController().signal))
          seen[index]?.push(value);
        expect(seen).toEqual(lists);
      }),
    );
  });

  test('leaving early ends every source', async () => {
    const log: string[] = [];
    const merged = merge([counted([1, 2], log), counted([3, 4], log)], new AbortController().signal);
    await merged.next();
    await merged.return();
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(log).toEqual(['left', 'left']);
  });

  test('an abort is not held up by a source that says nothing', async () => {
    const silent = (async function* () {
      yield await new Promise<number>(() => undefined);
    })();
    const abort = new AbortController();
    setTimeout(() => {
      abort.abort(new Error('enough'));
    }, 5);
    await expect(merge([silent], abort.signal).next()).rejects.toThrow('enough');
  });
});
