/** The official client's WebSocket for responses, unchanged, against the real engine. */
import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../../src/runtime/protocol.ts';
import { startDemoEngine, startLiveServer } from '../support/live.ts';
import type { LiveServer } from '../support/live.ts';
import { SocketClient } from '../support/socket-client.ts';
import type { Heard } from '../support/socket-client.ts';

let engine: Engine;
let server: LiveServer;

beforeAll(async () => {
  engine = await startDemoEngine();
  server = await startLiveServer({}, engine);
});

afterAll(() => server.close());

const input = 'The keeper of the mill holds the brass key. What does the keeper of the mill hold?';
const fields = { model: 'coppice-recall', temperature: 0, max_output_tokens: 12 };

interface Completed {
  readonly id: string;
  readonly status: string;
  readonly output_text?: string;
  readonly output: { content: { text: string }[] }[];
}

const isTerminal = ({ type = '' }: Heard) => /^response\.(completed|incomplete|failed)$/.test(type);
const responseOf = (heard: Heard) => heard['response'] as Completed;
const textOf = ({ output }: Completed) =>
  output.map((item) => item.content.map((part) => part.text).join('')).join('');

describe('the ResponsesWS client', () => {
  test('streams a response, and continues it', async () => {
    const socket = new ResponsesWS(new OpenAI({ baseURL: `${server.listener.url}/v1`, apiKey: 'none' }));
    const heard: { type: string }[] = [];
    const terminal = () =>
      new Promise<Completed>((resolve, reject) => {
        socket.on('event', (event) => {
          heard.push(event);
          if (/^response\.(completed|incomplete|failed)$/.test(event.type))
            resolve((event as unknown as { response: Completed }).response);
        });
        socket.on('error', reject);
      });
    const first = terminal();
    socket.send({ type: 'response.create', ...fields, input, store: false });
    const response = await first;
    const whole = await server.client.responses.create({ ...fields, input });
    expect(textOf(response)).toBe(whole.output_text);
    expect(heard[0]?.type).toBe('response.created');
    const sequence = heard.map((event) => (event as unknown as { sequence_number: number }).sequence_number);
    expect(sequence).toEqual(sequence.map((_, i) => i));
    heard.length = 0;
    const second = terminal();
    socket.send({
      type: 'response.create',
      ...fields,
      store: false,
      previous_response_id: response.id,
      input: 'And now?',
    });
    expect((await second).id).not.toBe(response.id);
    socket.close();
  });

  test('a bad request is an error event, and the socket lives on', async () => {
    const socket = new ResponsesWS(new OpenAI({ baseURL: `${server.listener.url}/v1`, apiKey: 'none' }));
    const failed = new Promise<Error>((resolve) => {
      socket.on('error', resolve);
    });
    socket.send({ type: 'response.create', ...fields, input, temperature: 9 });
    expect((await failed).message).toContain('temperature');
    const done = new Promise((resolve) => {
      socket.on('event', ({ type }) => {
        if (type === 'response.incomplete' || type === 'response.completed') resolve(type);
      });
    });
    socket.send({ type: 'response.create', ...fields, input });
    expect(await done).toBeDefined();
    socket.close();
  });
});

describe('connection memory', () => {
  const path = '/v1/responses';
  const create = (more: object) => ({ type: 'response.create', ...fields, input, ...more });

  test('a response that is not stored can be continued here and nowhere else', async () => {
    const client = await SocketClient.open(server.listener.url + path);
    client.send(create({ store: false, stream_id: 'one' }));
    const { id } = responseOf(await client.until(isTerminal));
    client.send(create({ store: false, stream_id: 'two', previous_response_id: id }));
    const next = await client.until((heard) => isTerminal(heard) && heard.stream_id === 'two');
    expect(responseOf(next)).toMatchObject({ previous_response_id: id });
    const other = await SocketClient.open(server.listener.url + path);
    other.send(create({ previous_response_id: id, stream_id: 'x' }));
    expect(await other.until(({ type }) => type === 'error')).toMatchObject({
      status: 400,
      stream_id: 'x',
      error: { code: 'previous_response_not_found', param: 'previous_response_id' },
    });
    await client.close();
    await other.close();
  });

  test('a stored response goes on over HTTP', async () => {
    const client = await SocketClient.open(server.listener.url + path);
    client.send(create({ pruning: 'balanced' }));
    const heard = await client.until(isTerminal);
    const { id } = responseOf(heard);
    expect(heard['response']).toMatchObject({ pruning: { preset: 'balanced' } });
    const next = await server.client.responses.create({
      ...fields,
      input: 'And now?',
      previous_response_id: id,
    });
    expect(next.previous_response_id).toBe(id);
    await client.close();
  });

  test('every event of a lane names it', async () => {
    const client = await SocketClient.open(server.listener.url + path);
    client.send(create({ stream_id: 'a.b-c_1' }));
    await client.until(isTerminal);
    expect(client.lane('a.b-c_1')).toHaveLength(client.heard.length);
    await client.close();
  });
});
