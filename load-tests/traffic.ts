/** Mixed traffic as many clients would make it, good and bad, each request of a kind drawn at random. */
import { connect } from 'node:net';
import { SocketClient } from '../test/server/support/socket-client.ts';
import type { Heard } from '../test/server/support/socket-client.ts';

const CHAT = '/v1/chat/completions';
const COMPLETIONS = '/v1/completions';
const RESPONSES = '/v1/responses';

/** How a request ended, as its client saw it. */
export interface Outcome {
  readonly kind: string;
  /** HTTP status, or the status of an error frame; 0 = the client left. */
  readonly status: number;
  /** What was wrong with it; null = it was as expected. */
  readonly mistake: string | null;
}

type Random = () => number;
type Kind = (client: Client) => Promise<Outcome>;

interface Client {
  readonly url: string;
  readonly random: Random;
  /** Values of the field `pruning` that the server can run. */
  readonly prunings: readonly unknown[];
}

/** Numbers in [0, 1) that a seed repeats (the mulberry32 generator). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const pick = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
const between = (random: Random, low: number, high: number) => Math.round(low + random() * (high - low));
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const SENTENCES = [
  'The code of red is nine. ',
  'Remember that the key code of the old hammer is 3426. ',
  'The keeper of the mill holds the brass key. ',
  'What does the keeper of the tower hold? ',
];

/** A few sentences, at times some thousand tokens of them. */
function text(random: Random): string {
  const length = random() < 0.05 ? between(random, 100, 250) : between(random, 1, 20);
  return `${between(random, 0, 999)}. ${Array.from({ length }, () => pick(random, SENTENCES)).join('')}`;
}

const messages = (random: Random) => [{ role: 'user', content: text(random) }];

function sampling({ random, prunings }: Client): object {
  return {
    temperature: pick(random, [0, 0.7, 1.5]),
    ignore_eos: random() < 0.5,
    ...(random() < 0.3 && { stop: ['e'] }),
    ...(random() < 0.2 && { n: between(random, 2, 4) }),
    ...(random() < 0.2 && { cache_prompt: false }),
    ...(random() < 0.2 && { priority: between(random, -2, 2) }),
    ...(random() < 0.4 && { pruning: pick(random, prunings) }),
  };
}

/** Full queues are an answer, too. */
const GOOD = [200, 429];

async function post(client: Client, kind: string, path: string, body: object, good = GOOD): Promise<Outcome> {
  const response = await fetch(client.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const reply = await response.text();
  const { status } = response;
  if (!good.includes(status))
    return { kind, status, mistake: `expected ${good.join(' or ')}: ${reply.slice(0, 300)}` };
  const isStream = 'stream' in body && status === 200;
  const isWhole = !isStream || /data: \[DONE\]\n\n$|"type":"response\.(completed|incomplete)"/.test(reply);
  return { kind, status, mistake: isWhole ? null : `a stream without its end: ${reply.slice(-300)}` };
}

/** Leaves a stream after a random time. */
async function abandon(client: Client): Promise<Outcome> {
  const abort = new AbortController();
  const { random } = client;
  setTimeout(
    () => {
      abort.abort();
    },
    between(random, 0, 400),
  );
  const body = {
    ...sampling(client),
    messages: messages(random),
    max_tokens: 2000,
    ignore_eos: true,
    stream: random() < 0.7,
  };
  try {
    const response = await fetch(client.url + CHAT, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: abort.signal,
    });
    await response.text();
    return {
      kind: 'abandoned',
      status: response.status,
      mistake: GOOD.includes(response.status) ? null : 'unexpected',
    };
  } catch (error) {
    if (abort.signal.aborted) return { kind: 'abandoned', status: 0, mistake: null };
    throw error;
  }
}

/** Sends a request, reads nothing of it for some seconds, and goes. */
async function stall({ url, random }: Client): Promise<Outcome> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  socket.pause();
  const asked = {
    messages: messages(random),
    max_tokens: 3000,
    ignore_eos: true,
    stream: true,
    logprobs: true,
    top_logprobs: 20,
  };
  const body = JSON.stringify(asked);
  const head = `POST ${CHAT} HTTP/1.1\r\nHost: ${hostname}\r\nContent-Type: application/json\r\n`;
  socket.write(`${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  await sleep(between(random, 500, 4000));
  socket.destroy();
  return { kind: 'stalled', status: 0, mistake: null };
}

const isEnd = ({ type = '' }: Heard) =>
  /^(chat\.completion\.done|response\.(completed|incomplete)|error)$/.test(type);

/** Some lanes in a connection, a part of them cancelled; at times the connection is just dropped. */
async function converse(
  client: Client,
  kind: string,
  path: string,
  create: (lane: string) => object,
): Promise<Outcome> {
  const { random } = client;
  const socket = await SocketClient.open(client.url + path);
  const lanes = Array.from({ length: between(random, 1, 3) }, (_, i) => `${i}`);
  for (const lane of lanes) socket.send(create(lane));
  if (random() < 0.2) {
    await sleep(between(random, 0, 200));
    socket.socket.terminate();
    return { kind, status: 0, mistake: null };
  }
  if (path === CHAT && random() < 0.4) {
    await sleep(between(random, 0, 100));
    if (!socket.heard.some((heard) => isEnd(heard) && heard.stream_id === lanes[0]))
      socket.send({ type: 'chat.completion.cancel', stream_id: lanes[0] });
  }
  for (const lane of lanes) await socket.until((heard) => heard.stream_id === lane && isEnd(heard));
  await socket.close();
  const errors = socket.heard
    .filter(({ type }) => type === 'error')
    .map((frame) => frame as { status?: number });
  // A cancel may cross the end of its lane.
  const bad = errors.find(({ status }) => status !== 429 && status !== 404);
  return { kind, status: bad?.status ?? 200, mistake: bad === undefined ? null : JSON.stringify(bad) };
}

const BAD_BODIES: readonly string[] = [
  '',
  '{',
  '[]',
  '{"messages":[]}',
  '{"messages":[{"role":"robot","content":"x"}]}',
  '{"messages":[{"role":"user","content":"x"}],"temperature":9}',
  '{"messages":[{"role":"user","content":"x"}],"pruning":{"kv":"no-such"}}',
  '{"messages":[{"role":"user","content":"x"}],"max_tokens":100000}',
  '{"messages":[{"role":"user","content":"x"}],"model":"no-such"}',
  '{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"no-such"}}}}',
];

async function sendBad({ url, random }: Client): Promise<Outcome> {
  const response = await fetch(url + CHAT, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: pick(random, BAD_BODIES),
  });
  const reply = (await response.json()) as { error?: { message: string } };
  const { status } = response;
  const isRefused = status >= 400 && status < 500 && reply.error !== undefined;
  return { kind: 'bad', status, mistake: isRefused ? null : `expected a refusal: ${JSON.stringify(reply)}` };
}

const SCHEMA = {
  type: 'object',
  properties: { colour: { enum: ['red', 'green'] }, code: { type: 'integer' } },
  required: ['colour', 'code'],
  additionalProperties: false,
};
const TOOLS = [
  { type: 'function', function: { name: 'look_up', description: 'Looks up a code', parameters: SCHEMA } },
];
const FORMAT = { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema: SCHEMA } };
/** 400 only of servers that have no tools or grammars. */
const MAYBE = [...GOOD, 400];

/** A response, at times one that goes on from it. */
async function respond(client: Client): Promise<Outcome> {
  const { random } = client;
  const ask = (more: object) => ({
    ...sampling(client),
    n: undefined,
    stop: undefined,
    input: text(random),
    max_output_tokens: between(random, 1, 24),
    ...more,
  });
  if (random() < 0.5) return post(client, 'response', RESPONSES, ask({ stream: true }));
  const response = await fetch(client.url + RESPONSES, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(ask({})),
  });
  const { id } = (await response.json()) as { id?: string };
  if (id === undefined)
    return {
      kind: 'response',
      status: response.status,
      mistake: GOOD.includes(response.status) ? null : 'no id',
    };
  // Old ones are forgotten when memory is short.
  return post(client, 'response', RESPONSES, ask({ previous_response_id: id }), MAYBE);
}

const short = (random: Random) => ({ max_tokens: between(random, 1, 40) });

/** With how often each comes, of the sum of all. */
const KINDS: readonly (readonly [number, Kind])[] = [
  [20, (c) => post(c, 'chat', CHAT, { ...sampling(c), messages: messages(c.random), ...short(c.random) })],
  [
    20,
    (c) =>
      post(c, 'chat stream', CHAT, {
        ...sampling(c),
        messages: messages(c.random),
        ...short(c.random),
        stream: true,
        stream_options: { include_usage: true },
        return_progress: c.random() < 0.3,
      }),
  ],
  [
    10,
    (c) =>
      post(c, 'completion', COMPLETIONS, {
        ...sampling(c),
        prompt: [text(c.random), text(c.random)],
        ...short(c.random),
        logprobs: 2,
      }),
  ],
  [
    5,
    (c) =>
      post(c, 'scoring', COMPLETIONS, { prompt: text(c.random), max_tokens: 0, echo: true, logprobs: 1 }),
  ],
  [10, respond],
  [8, abandon],
  [2, stall],
  [10, sendBad],
  [
    5,
    (c) =>
      post(
        c,
        'tools',
        CHAT,
        {
          messages: messages(c.random),
          ...short(c.random),
          tools: TOOLS,
          tool_choice: pick(c.random, ['auto', 'none', 'required']),
        },
        MAYBE,
      ),
  ],
  [
    5,
    (c) =>
      post(
        c,
        'structured',
        CHAT,
        { messages: messages(c.random), ...short(c.random), response_format: FORMAT },
        MAYBE,
      ),
  ],
  [
    8,
    (c) =>
      converse(c, 'socket', CHAT, (lane) => ({
        type: 'chat.completion.create',
        stream_id: lane,
        ...sampling(c),
        // Whoever comes last by priority may starve for longer than the client waits.
        priority: 0,
        messages: messages(c.random),
        ...short(c.random),
      })),
  ],
  [
    5,
    (c) =>
      converse(c, 'response socket', RESPONSES, (lane) => ({
        type: 'response.create',
        stream_id: lane,
        input: text(c.random),
        max_output_tokens: between(c.random, 1, 24),
      })),
  ],
];
const TOTAL = KINDS.reduce((sum, [weight]) => sum + weight, 0);

/** One request of a random kind. Rejects when the connection breaks, which it should not. */
export function sendOne(client: Client): Promise<Outcome> {
  let left = client.random() * TOTAL;
  const [, kind] = KINDS.find(([weight]) => (left -= weight) < 0) ?? KINDS[0]!;
  return kind(client);
}

/** All that the server at this address can leave out. */
export async function listPrunings(url: string): Promise<unknown[]> {
  const policies = (await (await fetch(`${url}/v1/policies`)).json()) as {
    data: { family: string; supported: boolean; examples: unknown[] }[];
    presets: { name: string; supported: boolean }[];
  };
  const examples = policies.data
    .filter(({ supported }) => supported)
    .flatMap(({ family, examples }) => examples.map((example) => ({ [family]: example })));
  return [...examples, ...policies.presets.filter(({ supported }) => supported).map(({ name }) => name)];
}
