/** A server by its address: all that the suite knows of it. */
import OpenAI from 'openai';
import { expect, inject } from 'vitest';
import { Exposition } from '../../support/exposition.ts';
import { SocketClient } from '../../support/socket-client.ts';

export const CHAT = '/v1/chat/completions';
export const COMPLETIONS = '/v1/completions';
export const RESPONSES = '/v1/responses';

/** Whether the suite may start servers of its own. */
export const ownsServer = inject('cacheDir') !== '';

export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly json: Record<string, unknown>;
}

export interface ErrorRow {
  readonly status: number;
  readonly type?: string;
  readonly code?: string | null;
  /** Absent = any. */
  readonly param?: string | null | RegExp;
}

/** What a stream of server-sent events held. */
export interface Events {
  readonly objects: Record<string, unknown>[];
  readonly numComments: number;
  readonly hasDone: boolean;
}

export class Target {
  readonly url: string;
  readonly key: string;
  readonly client: OpenAI;

  constructor(url: string, key = 'none') {
    this.url = url;
    this.key = key;
    this.client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
  }

  get headers(): Record<string, string> {
    return { authorization: `Bearer ${this.key}` };
  }

  fetch(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { ...this.headers, ...(init.headers as Record<string, string> | undefined) };
    return fetch(this.url + path, { ...init, headers });
  }

  async request(path: string, init: RequestInit = {}): Promise<Reply> {
    const response = await this.fetch(path, init);
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.startsWith('application/json') === true;
    const json = (isJson && text !== '' ? JSON.parse(text) : {}) as Record<string, unknown>;
    return { status: response.status, headers: response.headers, text, json };
  }

  /** @param body an object, or text that goes out as it is */
  post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Reply> {
    return this.request(path, postInit(body, headers));
  }

  /** The whole stream. */
  async stream(path: string, body: object, headers: Record<string, string> = {}): Promise<Events> {
    const reply = await this.post(path, { ...body, stream: true }, headers);
    expect(reply.status, reply.text).toBe(200);
    expect(reply.headers.get('content-type')).toMatch(/^text\/event-stream/);
    return readEvents(reply.text);
  }

  /** Sends and does not wait; `text` fills as the reply comes. */
  open(path: string, body: object): OpenStream {
    return new OpenStream(this, path, body);
  }

  socket(path: string): Promise<SocketClient> {
    return SocketClient.open(this.url + path, { headers: this.headers });
  }

  async metrics(): Promise<Exposition> {
    const { status, text } = await this.request('/metrics');
    expect(status).toBe(200);
    return new Exposition(text);
  }

  /** The first model listed: requests that name none may get it. */
  async model(): Promise<{ id: string; context_length: number }> {
    const { json } = await this.request('/v1/models');
    const [first] = json['data'] as { id: string; context_length: number }[];
    if (first === undefined) throw new Error('expected a model');
    return first;
  }

  async count(prompt: string): Promise<number> {
    return Number((await this.post('/tokenize', { prompt })).json['count']);
  }

  /** Milliseconds until nothing runs or waits any more. */
  async untilIdle(): Promise<number> {
    const startedMs = performance.now();
    await eventually('no work', async () => {
      const metrics = await this.metrics();
      return metrics.total('coppice_requests_running') + metrics.total('coppice_requests_waiting') === 0;
    });
    return performance.now() - startedMs;
  }
}

/** Looks every 50 ms, which is often enough for what a person would call at once. @throws after 30 s */
export async function eventually(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + 30_000;
  while (!(await condition())) {
    if (performance.now() > deadlineMs) throw new Error(`expected ${what} within 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A streamed reply that is being read. */
export class OpenStream {
  text = '';
  /** The status; settles with the headers. */
  readonly status: Promise<number>;
  /** Settles when the reply has ended, however. */
  readonly ended: Promise<void>;
  readonly #abort = new AbortController();
  #wake: (hasMore: boolean) => void = () => undefined;

  constructor(target: Target, path: string, body: object) {
    const init = { ...postInit({ ...body, stream: true }, {}), signal: this.#abort.signal };
    const response = target.fetch(path, init);
    this.status = response.then(
      ({ status }) => status,
      () => 0,
    );
    this.ended = response.then((reply) => this.#read(reply)).catch(() => undefined);
  }

  async #read(response: Response): Promise<void> {
    for await (const piece of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      this.text += piece;
      this.#wake(true);
    }
  }

  /** @throws when the reply ends without it */
  async until(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.text)) {
      const next = new Promise<boolean>((resolve) => (this.#wake = resolve));
      const hasMore = await Promise.race([next, this.ended.then(() => false)]);
      if (!hasMore && !pattern.test(this.text))
        throw new Error(`expected ${String(pattern)} before the end, got ${this.text.slice(-300)}`);
    }
  }

  leave(): void {
    this.#abort.abort();
  }
}

function postInit(body: unknown, headers: Record<string, string>): RequestInit {
  return {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  };
}

function readEvents(text: string): Events {
  expect(text.endsWith('\n\n')).toBe(true);
  const pieces = text.slice(0, -2).split('\n\n');
  const data = pieces.flatMap((piece) => piece.split('\n').filter((line) => line.startsWith('data: ')));
  const objects = data
    .filter((line) => line !== 'data: [DONE]')
    .map((line) => JSON.parse(line.slice(6)) as object);
  return {
    objects: objects as Record<string, unknown>[],
    numComments: pieces.filter((piece) => piece.startsWith(':')).length,
    hasDone: data.at(-1) === 'data: [DONE]',
  };
}

/** The error object with its four keys, the request id, and nothing of the server's insides. */
export function expectError(reply: Reply, row: ErrorRow): string {
  expect(reply.status, reply.text).toBe(row.status);
  expect(reply.headers.get('content-type')).toMatch(/^application\/json/);
  expect(reply.headers.get('x-request-id')).toMatch(/^[A-Za-z0-9_.:-]{1,128}$/);
  expect(Object.keys(reply.json)).toEqual(['error']);
  return expectErrorObject(reply.json['error'], row);
}

export function expectErrorObject(error: unknown, { type, code = null, param }: ErrorRow): string {
  const object = error as Record<string, unknown>;
  expect(Object.keys(object).sort()).toEqual(['code', 'message', 'param', 'type']);
  expect(object).toMatchObject({ type: type ?? 'invalid_request_error', code });
  if (param instanceof RegExp) expect(object['param']).toMatch(param);
  else if (param !== undefined) expect(object['param']).toBe(param);
  expect(object['message']).toMatch(/\S/);
  expect(object['message']).not.toMatch(/\n|\bat .*\.[jt]s:\d/);
  return String(object['message']);
}

export const target = new Target(inject('url'), inject('key'));
