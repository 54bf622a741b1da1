/** WebSockets: both dialects, lanes, cancels, error frames and close codes. */
import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { refusal } from '../support/socket-client.ts';
import type { Heard, SocketClient } from '../support/socket-client.ts';
import { CHAT, RESPONSES, expectErrorObject, target } from './support/target.ts';

const messages = [{ role: 'user', content: 'What is the code of red?' }];
const plain = { messages, max_tokens: 4, temperature: 0, ignore_eos: true };
const endless = { ...plain, max_tokens: 4000 };
const create = (streamId: string | null, fields: object = plain) => ({
  type: 'chat.completion.create',
  ...(streamId !== null && { stream_id: streamId }),
  ...fields,
});
const cancel = (streamId: string) => ({ type: 'chat.completion.cancel', stream_id: streamId });
const isDone =
  (streamId?: string) =>
  ({ type, stream_id: id }: Heard) =>
    type === 'chat.completion.done' && id === streamId;
const isError = ({ type }: Heard) => type === 'error';

interface Choice {
  readonly delta: { readonly content?: string };
  readonly finish_reason: string | null;
}
const choices = (heard: readonly Heard[]) => heard.flatMap((chunk) => (chunk['choices'] ?? []) as Choice[]);
const textOf = (heard: readonly Heard[]) =>
  choices(heard)
    .map(({ delta }) => delta.content ?? '')
    .join('');

let model: string;
beforeAll(async () => {
  model = (await target.model()).id;
});

describe('chat completions', () => {
  let client: SocketClient;
  beforeEach(async () => {
    client = await target.socket(CHAT);
  });
  afterEach(() => client.close());

  test('the chunks of the stream, then done', async () => {
    const fields = { ...plain, stream_options: { include_usage: true }, pruning: 'none' };
    client.send(create('a', fields));
    await client.until(isDone('a'));
    const whole = (await target.post(CHAT, plain)).json as { choices: { message: { content: string } }[] };
    expect(textOf(client.heard)).toBe(whole.choices[0]?.message.content);
    expect(client.lane('a')).toHaveLength(client.heard.length);
    expect(client.heard.at(-2)).toMatchObject({
      usage: { completion_tokens: 4 },
      pruning: { preset: 'none' },
    });
    const { objects } = await target.stream(CHAT, fields);
    const keys = (object: object) => Object.keys(object).filter((key) => key !== 'stream_id');
    expect(keys(client.heard.at(-2) ?? {})).toEqual(keys(objects.at(-1) ?? {}));
  });

  test('a frame without a lane', async () => {
    client.send(create(null));
    await client.until(isDone());
    expect(client.heard.every((heard) => !('stream_id' in heard))).toBe(true);
  });

  test('first in, first out in a lane; lanes side by side', async () => {
    client.send(create('slow', endless));
    await client.until(({ stream_id: id }) => id === 'slow');
    client.send(create('slow'));
    client.send(create('fast'));
    await client.until(isDone('fast'));
    expect(client.heard.some(isDone('slow'))).toBe(false);
    client.send(cancel('slow'));
    await client.until(
      (heard) => isDone('slow')(heard) && client.lane('slow').filter(isDone('slow')).length === 2,
    );
    const reasons = choices(client.lane('slow')).map(({ finish_reason: reason }) => reason);
    expect(reasons.filter((reason) => reason !== null)).toEqual(['stop', 'length']);
  });

  test('cancelling what does not run', async () => {
    client.send(cancel('ghost'));
    const frame = await client.until(isError);
    expect(Object.keys(frame).sort()).toEqual(['error', 'status', 'stream_id', 'type']);
    expect(frame).toMatchObject({ stream_id: 'ghost' });
    expectErrorObject(frame['error'], { status: 404, code: 'unknown_stream', param: 'stream_id' });
  });

  test('a request that fails ends with its error and no done; the socket lives', async () => {
    client.send(create('a', { ...plain, temperature: 9 }));
    const frame = await client.until(isError);
    expect(frame).toMatchObject({ status: 400, stream_id: 'a' });
    expectErrorObject(frame['error'], { status: 400, param: 'temperature' });
    client.send(create('b', { ...plain, model: 'no-such' }));
    expect(await client.until(({ stream_id: id }) => id === 'b')).toMatchObject({
      type: 'error',
      status: 404,
    });
    client.send(create('c'));
    await client.until(isDone('c'));
    expect(client.heard.filter(({ type }) => type === 'chat.completion.done')).toHaveLength(1);
  });

  test.each([
    ['no JSON', '{', null],
    ['no object', '[]', null],
    ['no type', { messages }, 'type'],
    ['another path’s type', { type: 'response.create' }, 'type'],
    ['a bad lane', create('a b'), 'stream_id'],
    ['a long lane', create('x'.repeat(257)), 'stream_id'],
  ])('%s is an error frame', async (_, frame, param) => {
    client.send(frame);
    const error = await client.until(isError);
    expect(error).toMatchObject({ status: 400 });
    expectErrorObject(error['error'], { status: 400, param });
  });

  test('binary frames close with 1003', async () => {
    client.socket.send(Buffer.from(JSON.stringify(create('a'))));
    expect((await client.closed).code).toBe(1003);
  });

  test('lanes run out at the limit: an error frame, the others go on', async () => {
    const lanes = Array.from({ length: 300 }, (_, i) => `${i}`);
    const told: Heard[] = [];
    for (const lane of lanes) {
      client.send(create(lane, endless));
      await new Promise((resolve) => setImmediate(resolve));
      told.push(...client.heard.filter(isError));
      if (told.length > 0) break;
    }
    const frame = await client.until(isError);
    expectErrorObject(frame['error'], {
      status: 429,
      type: 'rate_limit_error',
      code: 'websocket_stream_limit_reached',
      param: 'stream_id',
    });
    expect(frame.stream_id).toMatch(/^\d+$/);
    client.send(cancel('0'));
    await client.until(isDone('0'));
  });
});

describe('responses', () => {
  const fields = {
    input: 'What is the code of red?',
    max_output_tokens: 4,
    temperature: 0,
    ignore_eos: true,
  };
  const isTerminal = ({ type = '' }: Heard) => /^response\.(completed|incomplete)$/.test(type);

  test('the official client, unchanged: a response, its continuation, an error', async () => {
    const socket = new ResponsesWS(new OpenAI({ baseURL: `${target.url}/v1`, apiKey: target.key }));
    const next = () =>
      new Promise<{ id: string; previous_response_id: string | null }>((resolve, reject) => {
        socket.on('error', reject);
        socket.on('event', (event) => {
          if (isTerminal(event as unknown as Heard))
            resolve(
              (event as unknown as { response: { id: string; previous_response_id: string | null } })
                .response,
            );
        });
      });
    const ask = (more: object) => {
      const reply = next();
      socket.send({ type: 'response.create', model, ...fields, store: false, ...more });
      return reply;
    };
    const first = await ask({});
    // Only this connection knows it.
    expect(await ask({ previous_response_id: first.id })).toMatchObject({ previous_response_id: first.id });
    const over = await target.post(RESPONSES, { ...fields, previous_response_id: first.id });
    expect(over.status).toBe(400);
    await expect(ask({ previous_response_id: 'resp_none' })).rejects.toThrow(/resp_none/);
    socket.close();
  });

  test('the events of the stream, one a frame; lanes echoed', async () => {
    const client = await target.socket(RESPONSES);
    client.send({ type: 'response.create', stream_id: 'x.1-_', ...fields });
    await client.until(isTerminal);
    const { objects } = await target.stream(RESPONSES, fields);
    expect(client.heard.map(({ type }) => type)).toEqual(objects.map((object) => object['type']));
    expect(client.lane('x.1-_')).toHaveLength(client.heard.length);
    client.send({ type: 'response.create', stream_id: 'y', ...fields, previous_response_id: 'resp_none' });
    const error = await client.until(isError);
    expect(error).toMatchObject({ status: 400, stream_id: 'y' });
    expectErrorObject(error['error'], {
      status: 400,
      code: 'previous_response_not_found',
      param: 'previous_response_id',
    });
    await client.close();
  });
});

test('no WebSocket elsewhere', async () => {
  expect(await refusal(`${target.url}/v1/completions`, { headers: target.headers })).toMatchObject({
    status: 404,
    error: { code: 'not_found' },
  });
});
