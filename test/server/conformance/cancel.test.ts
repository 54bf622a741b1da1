/** Clients that leave, or cancel, while they wait, prefill or decode, over both carriers: the gauges are at zero within moments. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Heard, SocketClient } from '../support/socket-client.ts';
import { CHAT, RESPONSES, eventually, target } from './support/target.ts';
import type { OpenStream } from './support/target.ts';

/** Required of an idle machine; on a busy one the tests grant more and report what it took. */
const WANTED_MS = 1000;

const short = [{ role: 'user', content: 'Tell me of red' }];
const endless = { max_tokens: 4000, ignore_eos: true };
const isContent = (heard: Heard) => /"content":"/.test(JSON.stringify(heard));
const isProgress = (heard: Heard) => 'prompt_progress' in heard;

let prefill: object;
const tookMs: Record<string, number> = {};

beforeAll(async () => {
  // As much prompt as there is room for: its prefill is long enough to be left in the middle.
  const sentence = 'Remember that the key code of the old hammer is 3426. ';
  const { context_length: context } = await target.model();
  const repeats = Math.floor((context - 600) / (await target.count(sentence)));
  const messages = [{ role: 'user', content: sentence.repeat(repeats) }];
  prefill = { messages, max_tokens: 200, return_progress: true, cache_prompt: false };
});

afterEach(async () => {
  for (const stream of open.splice(0)) stream.leave();
  await target.untilIdle();
});

afterAll(() => {
  const slow = Object.entries(tookMs).filter(([, ms]) => ms > WANTED_MS);
  const all = Object.entries(tookMs).map(([name, ms]) => `${name} ${Math.round(ms)} ms`);
  console.log(`from cancel to idle: ${all.join(', ')}`);
  if (slow.length > 0)
    console.warn(`expected at most ${WANTED_MS} ms: ${slow.map(([name]) => name).join(', ')}`);
});

const open: OpenStream[] = [];

function begin(body: object): OpenStream {
  const stream = target.open(CHAT, { messages: short, ...endless, ...body });
  open.push(stream);
  return stream;
}

/** Takes every place of the server, so that whoever comes next waits. */
async function fill(): Promise<void> {
  for (let i = 0; i < 300; i++) {
    const stream = begin({});
    let hasStarted = false;
    stream.until(/"content"/).then(
      () => (hasStarted = true),
      () => undefined,
    );
    await eventually('a request that starts or waits', async () => hasStarted || (await waiting()) > 0);
    if ((await waiting()) > 0) return;
  }
  throw new Error('expected a queue');
}

const waiting = async () => (await target.metrics()).total('coppice_requests_waiting');

/** Time from the end of `act` until nothing runs and nothing waits. */
async function measure(name: string, act: () => unknown): Promise<void> {
  await act();
  const ms = await target.untilIdle();
  tookMs[name] = ms;
  expect(ms).toBeLessThan(5000);
}

test('server-sent events: decoding', async () => {
  const stream = begin({ n: 2 });
  await stream.until(/"content":"[^"]/);
  await measure('SSE decode', () => {
    stream.leave();
  });
});

test('server-sent events: in the prefill', async () => {
  const stream = begin(prefill);
  await stream.until(/prompt_progress/);
  await measure('SSE prefill', () => {
    stream.leave();
  });
  // Who is slow to see the progress may meet text as well: then the machine is too busy for this test to mean much.
  if (/"content":"[^"]/.test(stream.text)) console.warn('SSE prefill: left while decoding');
});

test('server-sent events: queued', async () => {
  await fill();
  const before = await waiting();
  const stream = begin({ priority: 5 });
  await eventually('one more to wait', async () => (await waiting()) > before);
  stream.leave();
  await eventually('it to be gone', async () => (await waiting()) === before);
  expect(stream.text).toBe('');
  await measure('SSE queued', () => {
    for (const each of open.splice(0)) each.leave();
  });
});

const frame = (streamId: string, fields: object = {}) => ({
  type: 'chat.completion.create',
  stream_id: streamId,
  messages: short,
  ...endless,
  ...fields,
});
const cancel = (streamId: string) => ({ type: 'chat.completion.cancel', stream_id: streamId });
const isDone = (streamId: string) => (heard: Heard) =>
  heard.type === 'chat.completion.done' && heard.stream_id === streamId;

/** By a frame, or by closing the connection. */
test.each(['frame', 'close'] as const)('WebSocket, by %s: decoding, in the prefill, queued', async (way) => {
  let client = await target.socket(CHAT);
  const end = async (name: string, streamId: string) => {
    await measure(`WebSocket ${way} ${name}`, async () => {
      for (const stream of open.splice(0)) stream.leave();
      if (way === 'close') await client.close();
      else {
        client.send(cancel(streamId));
        await client.until(isDone(streamId));
        expect(reasons(client, streamId)).toEqual(['stop']);
      }
    });
    if (way === 'close') client = await target.socket(CHAT);
  };

  client.send(frame('decode'));
  await client.until(isContent);
  await end('decode', 'decode');

  client.send(frame('prefill', prefill));
  await client.until((heard) => heard.stream_id === 'prefill' && isProgress(heard));
  await end('prefill', 'prefill');

  await fill();
  const before = await waiting();
  client.send(frame('queued', { priority: 5 }));
  await eventually('one more to wait', async () => (await waiting()) > before);
  await end('queued', 'queued');
  await client.close();
});

function reasons(client: SocketClient, streamId: string): string[] {
  return client
    .lane(streamId)
    .flatMap((chunk) => (chunk['choices'] ?? []) as { finish_reason: string | null }[])
    .flatMap(({ finish_reason: reason }) => (reason === null ? [] : [reason]));
}

test('a reply that is not streamed, and a response', async () => {
  for (const [path, body] of [
    [CHAT, { messages: short, ...endless }],
    [RESPONSES, { input: 'Tell me of red', max_output_tokens: 4000, ignore_eos: true }],
  ] as const) {
    const abort = new AbortController();
    const headers = { 'content-type': 'application/json' };
    const reply = target.fetch(path, {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
      signal: abort.signal,
    });
    reply.catch(() => undefined);
    const running = async () => (await target.metrics()).total('coppice_requests_running');
    await eventually('it to run', async () => (await running()) > 0);
    await measure(`whole ${path}`, () => {
      abort.abort();
    });
  }
});
