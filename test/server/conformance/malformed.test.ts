/** Random bodies and frames that are wrong in some way: each gets a 4xx with the error object, and the server lives on. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Heard } from '../support/socket-client.ts';
import { CHAT, COMPLETIONS, RESPONSES, expectErrorObject, target } from './support/target.ts';

const SEED = Number(process.env['COPPICE_TEST_SEED'] ?? 20260917);
const NUM_RUNS = 200;

const paths = [CHAT, COMPLETIONS, RESPONSES, '/tokenize', '/detokenize'] as const;
type Path = (typeof paths)[number];

const messages = [{ role: 'user', content: 'x' }];
const sound: Record<Path, Record<string, unknown>> = {
  [CHAT]: { messages, max_tokens: 1 },
  [COMPLETIONS]: { prompt: 'x', max_tokens: 1 },
  [RESPONSES]: { input: 'x', max_output_tokens: 1 },
  '/tokenize': { prompt: 'x' },
  '/detokenize': { tokens: [1] },
};

const object = fc.dictionary(fc.string(), fc.jsonValue(), { minKeys: 1, maxKeys: 3 });
const noNumber = fc.oneof(fc.string(), fc.boolean(), fc.array(fc.jsonValue(), { maxLength: 3 }), object);
const noCount = fc.oneof(noNumber, fc.integer({ max: -2 }), fc.double({ min: 1.01, max: 1.99, noNaN: true }));
const noBoolean = fc.oneof(fc.string(), fc.integer(), fc.array(fc.jsonValue(), { maxLength: 3 }), object);
const noText = fc.oneof(fc.integer(), fc.boolean(), fc.array(fc.jsonValue(), { maxLength: 3 }), object);
const noPruning = fc.oneof(
  fc.integer(),
  fc.boolean(),
  fc.array(fc.jsonValue(), { maxLength: 3 }),
  fc.string().map((name) => `no-${name}`),
  fc.dictionary(
    fc.string().map((name) => `no-${name}`),
    fc.jsonValue(),
    { minKeys: 1, maxKeys: 3 },
  ),
  fc.record({
    kv: fc.oneof(
      fc.integer(),
      fc.boolean(),
      object.map((options) => ({ ...options, policy: 'no' })),
    ),
  }),
  fc.record({ kv: fc.record({ policy: fc.constant('snapkv'), keep: noCount }) }),
  fc.record({ tokens: fc.record({ policy: fc.constant('lazyllm'), stages: noBoolean }) }),
);

/** Values that are wrong in a field, whatever else the body says. */
const wrong: Record<string, fc.Arbitrary<unknown>> = {
  model: noText,
  stream: noBoolean,
  temperature: fc.oneof(noNumber, fc.double({ min: 2.01, max: 1e9 }), fc.integer({ max: -1 })),
  top_p: fc.oneof(noNumber, fc.double({ min: 1.01, max: 1e9 })),
  top_k: noCount,
  min_p: noCount,
  repetition_penalty: fc.oneof(noNumber, fc.integer({ max: 0 })),
  seed: noNumber,
  stop_token_ids: fc.oneof(noText, fc.array(fc.integer({ max: -1 }), { minLength: 1 })),
  logit_bias: fc.oneof(fc.integer(), fc.string(), fc.record({ '5': fc.oneof(noNumber, fc.constant(101)) })),
  min_tokens: noCount,
  ignore_eos: noBoolean,
  cache_prompt: noBoolean,
  priority: noNumber,
  max_time_ms: noCount,
  pruning: noPruning,
  speculative: fc.oneof(fc.string(), fc.integer(), object),
};
const required: Record<Path, fc.Arbitrary<unknown>> = {
  [CHAT]: fc.oneof(
    noText,
    fc.string(),
    fc.array(
      fc.oneof(
        fc.jsonValue(),
        fc.record({ role: fc.string().map((role) => `no-${role}`), content: fc.string() }),
      ),
      { minLength: 1 },
    ),
  ),
  [COMPLETIONS]: fc.oneof(object, fc.boolean(), fc.integer(), fc.array(fc.boolean(), { minLength: 1 })),
  [RESPONSES]: fc.oneof(object, fc.boolean(), fc.integer(), fc.array(fc.boolean(), { minLength: 1 })),
  '/tokenize': noText,
  '/detokenize': fc.oneof(object, fc.boolean(), fc.string(), fc.array(fc.string(), { minLength: 1 })),
};
const field: Record<Path, string> = {
  [CHAT]: 'messages',
  [COMPLETIONS]: 'prompt',
  [RESPONSES]: 'input',
  '/tokenize': 'prompt',
  '/detokenize': 'tokens',
};

const isJson = (text: string) => {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
};
const noObject = fc
  .oneof(
    fc.string(),
    fc.jsonValue().map((value) => JSON.stringify(value)),
  )
  .filter((text) => !isJson(text) || !/^\s*\{/.test(text));
const cut = (text: string) => fc.integer({ min: 1, max: text.length - 1 }).map((end) => text.slice(0, end));

/** A body for a path that cannot be right. */
const malformed = (path: Path): fc.Arbitrary<string> => {
  const fields = path.startsWith('/v1') ? Object.keys(wrong) : ['model'];
  return fc.oneof(
    { weight: 1, arbitrary: noObject },
    { weight: 1, arbitrary: cut(JSON.stringify(sound[path])) },
    {
      weight: 2,
      arbitrary: required[path].map((value) => JSON.stringify({ ...sound[path], [field[path]]: value })),
    },
    {
      weight: 6,
      arbitrary: fc
        .constantFrom(...fields)
        .chain((name) =>
          (wrong[name] ?? fc.constant(null)).map((value) =>
            JSON.stringify({ ...sound[path], [name]: value }),
          ),
        ),
    },
  );
};

let errorsBefore: number;
const internalErrors = async () => {
  const { families } = await target.metrics();
  const samples = families.get('coppice_request_errors_total')?.samples ?? [];
  return samples
    .filter(({ labels }) => labels['code'] === 'server_error')
    .reduce((sum, { value }) => sum + value, 0);
};
beforeAll(async () => {
  errorsBefore = await internalErrors();
});

afterAll(async () => {
  console.log(`seed of malformed bodies and frames: ${SEED}`);
  expect((await target.post(CHAT, sound[CHAT])).status).toBe(200);
  expect(await internalErrors()).toBe(errorsBefore);
  await target.untilIdle();
});

const settings = { seed: SEED, numRuns: NUM_RUNS, endOnFailure: true };

test(`${NUM_RUNS} bodies`, async () => {
  const requests = fc.constantFrom(...paths).chain((path) => malformed(path).map((body) => ({ path, body })));
  await fc.assert(
    fc.asyncProperty(requests, async ({ path, body }) => {
      const reply = await target.post(path, body);
      expect(reply.status, reply.text).toBeGreaterThanOrEqual(400);
      expect(reply.status, reply.text).toBeLessThan(500);
      const { type, code } = reply.json['error'] as { type: string; code: string | null };
      expectErrorObject(reply.json['error'], { status: reply.status, type, code });
    }),
    settings,
  );
});

test(`${NUM_RUNS} frames`, async () => {
  const dialects = [
    { path: CHAT, type: 'chat.completion.create' },
    { path: RESPONSES, type: 'response.create' },
  ] as const;
  const clients = await Promise.all(dialects.map(({ path }) => target.socket(path)));
  const anyFrame = fc.constantFrom(0, 1).chain((index) => {
    const { path, type } = dialects[index === 0 ? 0 : 1];
    const typed = malformed(path).map((text) =>
      isJson(text) && /^\s*\{/.test(text) ? JSON.stringify({ type, ...(JSON.parse(text) as object) }) : text,
    );
    // Of frames, `stream` means nothing.
    const wrongOnly = typed.filter((text) => !/"stream":/.test(text));
    const untyped = fc
      .oneof(noText, fc.string())
      .map((value) => JSON.stringify({ ...sound[path], type: value }));
    const badLane = fc
      .oneof(
        noText,
        fc.string().map((name) => `${name} `),
      )
      .map((lane) => JSON.stringify({ ...sound[path], type, stream_id: lane }));
    const text = fc.oneof(
      { weight: 5, arbitrary: wrongOnly },
      { weight: 1, arbitrary: untyped },
      { weight: 1, arbitrary: badLane },
    );
    return text.map((frame) => ({ index, frame }));
  });
  await fc.assert(
    fc.asyncProperty(anyFrame, async ({ index, frame }) => {
      const client = clients[index];
      if (client === undefined) throw new Error('expected a client');
      client.heard.length = 0;
      client.send(frame);
      const heard: Heard = await client.until(() => true);
      expect(heard.type, JSON.stringify(heard)).toBe('error');
      expect(heard['status']).toBeGreaterThanOrEqual(400);
      expect(heard['status']).toBeLessThan(500);
      const { type, code } = heard['error'] as { type: string; code: string | null };
      expectErrorObject(heard['error'], { status: 0, type, code });
    }),
    settings,
  );
  const [chat] = clients;
  chat?.send({ type: 'chat.completion.create', stream_id: 'after', ...sound[CHAT] });
  await chat?.until(({ type }) => type === 'chat.completion.done');
  await Promise.all(clients.map((client) => client.close()));
});
