/** Framing of streamed replies: first byte, pings, slow readers, readers that leave. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createTestServer } from './support/app.ts';
import { ScriptedEngine, done, finished, saying, token } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const body = { messages: [{ role: 'user', content: 'hello' }], stream: true };
const after = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test('every event is one data line and a blank one; [DONE] is last', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 1535 }), { maxLength: 20 }), async (ids) => {
      const response = await createTestServer(new ScriptedEngine(saying(ids))).post(CHAT, body);
      const text = await response.text();
      expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
      for (const piece of text.slice(0, -2).split('\n\n')) {
        expect(piece).toMatch(/^data: (\{.*\}|\[DONE\])$/);
        if (piece !== 'data: [DONE]') JSON.parse(piece.slice('data: '.length));
      }
    }),
    { numRuns: 40 },
  );
});

test('headers', async () => {
  const response = await createTestServer(new ScriptedEngine(saying([300]))).post(CHAT, body);
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  expect(response.headers.get('cache-control')).toBe('no-cache');
});

test('the 200 goes out with the first ping when the first token is slow, and pings go on', async () => {
  const gates = [0, 1].map(() => {
    let open: () => void = () => undefined;
    const opened = new Promise<void>((resolve) => (open = resolve));
    return { open, opened };
  });
  const engine = new ScriptedEngine(async function* (request) {
    await gates[0]?.opened;
    yield token(300);
    await gates[1]?.opened;
    yield finished();
    yield done(request, 1);
  });
  // The reply comes although the engine says nothing until the gate opens.
  const response = await createTestServer(engine, { 'sse.ping_ms': '50' }).post(CHAT, body);
  expect(response.status).toBe(200);
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  const read = async () => (await reader?.read())?.value;
  expect([await read(), await read()]).toEqual([': ping\n\n', ': ping\n\n']);
  gates[0]?.open();
  let piece = await read();
  while (!piece?.includes('"content":"at"')) piece = await read();
  expect(await read()).toBe(': ping\n\n');
  gates[1]?.open();
  while (piece !== undefined && !piece.includes('[DONE]')) piece = await read();
  expect(piece).toBe('data: [DONE]\n\n');
});

test('without a ping due the status waits for the engine: an early error keeps its own', async () => {
  const engine = new ScriptedEngine(async function* () {
    await after(20);
    yield { type: 'error', code: 'kv_memory_exceeded', message: 'expected less', param: null };
  });
  expect((await createTestServer(engine).post(CHAT, body)).status).toBe(503);
});

test('a reader that does not read pauses the sequence', async () => {
  const engine = new ScriptedEngine(saying(Array.from({ length: 500 }, () => 300)));
  const response = await createTestServer(engine, { 'sse.ping_ms': '5' }).post(CHAT, {
    ...body,
    max_tokens: 500,
  });
  await after(60);
  expect(engine.numEvents).toBeLessThan(5);
  const reader = response.body?.getReader();
  const pieces = [];
  for (let i = 0; i < 10; i++) pieces.push(Buffer.from((await reader?.read())?.value ?? []).toString());
  // Pings that were due meanwhile did not pile up.
  expect(pieces.filter((piece) => piece.startsWith(': ping')).length).toBeLessThan(3);
  await after(20);
  expect(engine.numEvents).toBeLessThan(20);
  await reader?.cancel();
  expect(engine.cancelled).toHaveLength(1);
});

test('a reader that leaves while nothing comes cancels at once', async () => {
  const engine = new ScriptedEngine(async function* () {
    yield token(300);
    await new Promise(() => undefined);
  });
  const server = createTestServer(engine);
  const response = await server.post(CHAT, body);
  const reader = response.body?.getReader();
  await reader?.read();
  const read = reader?.read();
  await reader?.cancel();
  await read;
  expect(engine.cancelled).toHaveLength(1);
  expect(server.log().at(-1)).toMatchObject({ cancelled: true, path: CHAT });
});
