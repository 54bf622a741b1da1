/** The OpenAPI document: names every route, says what is checked, and replies look as it says. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import fc from 'fast-check';
import { z } from 'zod';
import { MODULES } from '../../src/policies/index.ts';
import { createServerContext } from '../../src/server/context.ts';
import { routeTable } from '../../src/server/routes/table.ts';
import { promptField, tokenList } from '../../src/server/schemas/prompts.ts';
import { createContext, createTestServer, readEvents } from './support/app.ts';
import { startLiveServer } from './support/live.ts';
import type { LiveServer } from './support/live.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

type Json = Record<string, unknown>;
interface Operation {
  operationId: string;
  summary: string;
  security?: unknown[];
  requestBody?: { content: Record<string, { schema: Json }> };
  responses: Record<string, { description: string; content: Record<string, { schema: Json }> }>;
}
interface Document {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Json>; securitySchemes?: Json };
  security?: unknown[];
}

async function readDocument(flags: Record<string, string> = {}, headers: Record<string, string> = {}) {
  const { app } = createTestServer(new ScriptedEngine(saying([300])), flags);
  const reply = await app.request('/openapi.json', { headers });
  return { app, document: (await reply.json()) as Document };
}

function operations({ paths }: Document): [string, Operation][] {
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]): [string, Operation] => [`${method} ${path}`, about]),
  );
}

/** All references of a value. */
function references(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, child]: [string, unknown]) =>
    key === '$ref' && typeof child === 'string' ? [child] : references(child),
  );
}

/** A check made of the document alone. */
function checkOf(document: Document, name: string): z.ZodType {
  const $defs = document.components.schemas;
  const text = JSON.stringify({ $ref: `#/$defs/${name}`, $defs });
  return z.fromJSONSchema(
    JSON.parse(text.replaceAll('#/components/schemas/', '#/$defs/')) as z.core.JSONSchema.JSONSchema,
  );
}

describe('the document', () => {
  test('has every route of the app, and no other', async () => {
    const { app, document } = await readDocument();
    const served = app.routes
      .filter(({ method }) => method !== 'ALL')
      .map(({ method, path }) => `${method.toLowerCase()} ${path.replace(/:(\w+)(\{.*\})?/, '{$1}')}`);
    expect(
      operations(document)
        .map(([place]) => place)
        .sort(),
    ).toEqual(served.sort());
    expect(served).toContain('post /v1/responses');
  });

  test('is sound in itself: references lead somewhere, ids are unique, errors are objects of errors', async () => {
    const { document } = await readDocument();
    expect(document.openapi).toMatch(/^3\.1\./);
    const known = Object.keys(document.components.schemas).map((name) => `#/components/schemas/${name}`);
    const used = new Set(references(document));
    expect([...used].filter((reference) => !known.includes(reference))).toEqual([]);
    expect(known.filter((reference) => !used.has(reference))).toEqual([]);
    const ids = operations(document).map(([, { operationId }]) => operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const [place, { summary, responses, requestBody }] of operations(document)) {
      expect(summary, place).not.toBe('');
      expect(Object.keys(responses), place).toEqual(expect.arrayContaining(['200', '400', '500']));
      for (const [status, reply] of Object.entries(responses)) {
        if (status === '200') continue;
        expect(reply.content['application/json']?.schema, place).toEqual({
          $ref: '#/components/schemas/Error',
        });
        expect(reply.description, place).not.toBe('');
      }
      expect(requestBody === undefined, place).toBe(!place.startsWith('post'));
      if (requestBody) expect(Object.keys(responses), place).toEqual(expect.arrayContaining(['413', '415']));
    }
    expect(document.paths['/v1/completions']?.['post']?.responses['400']?.description).toContain(
      'context_length_exceeded',
    );
  });

  test('asks for a key only where one is configured, and not of probes', async () => {
    const open = (await readDocument()).document;
    expect(open.security).toBeUndefined();
    expect(open.components.securitySchemes).toBeUndefined();
    const { app, document } = await readDocument({ api_keys: 'secret' }, { authorization: 'Bearer secret' });
    expect((await app.request('/openapi.json')).status).toBe(401);
    expect(document.components.securitySchemes).toMatchObject({ apiKey: { type: 'http', scheme: 'bearer' } });
    expect(document.security).toEqual([{ apiKey: [] }]);
    const isPublic = ([, { security }]: [string, Operation]) => security?.length === 0;
    const places = operations(document);
    expect(places.filter(isPublic).map(([place]) => place)).toEqual(['get /health', 'get /ready']);
    for (const [place, { responses }] of places)
      expect('401' in responses, place).toBe(place !== 'get /health' && place !== 'get /ready');
  });
});

describe('its schemas agree with what requests are checked with', () => {
  const token = fc.oneof(fc.nat(2000), fc.constantFrom(-1, 0.5, 2 ** 53, null, 'x'));
  const prompt = fc.oneof(
    { depthSize: 'small' },
    fc.string(),
    fc.array(fc.string()),
    fc.array(token),
    fc.array(fc.array(token)),
    fc.array(fc.oneof(fc.string(), fc.array(fc.nat(9), { minLength: 1 }))),
    fc.jsonValue(),
  );

  test('prompts and token lists', () => {
    for (const schema of [promptField, tokenList]) {
      const described = z.fromJSONSchema(z.toJSONSchema(schema, { io: 'input' }));
      fc.assert(
        fc.property(prompt, (value) => {
          // What is described passes; what passes may be more (mixed lists).
          if (described.safeParse(value).success) expect(schema.safeParse(value).success).toBe(true);
          else if (schema.safeParse(value).success) expect(Array.isArray(value)).toBe(true);
        }),
      );
    }
  });

  test('pruning: presets, every example of every policy, and no others', async () => {
    const { document } = await readDocument();
    const check = checkOf(document, 'Pruning');
    const accepts = (value: unknown) => check.safeParse(value).success;
    for (const name of ['none', 'balanced', 'fast', null]) expect(accepts(name), String(name)).toBe(true);
    for (const { name, family, examples } of MODULES) {
      expect(accepts({ [family]: name }), name).toBe(true);
      for (const example of examples) expect(accepts({ [family]: example }), name).toBe(true);
    }
    for (const wrong of [
      'balance',
      3,
      { heads: 'snapkv' },
      { kv: 'lazyllm' },
      { kv: { keep: 0.5 } },
      { kv: { policy: 'snapkv', keep: 2 } },
      { kv: { policy: 'snapkv', keeps: 0.5 } },
      { visual: 'flowcut' },
    ])
      expect(accepts(wrong), JSON.stringify(wrong)).toBe(false);
  });

  test("models by the server's own names", async () => {
    const { document } = await readDocument();
    const check = checkOf(document, 'CompletionRequest');
    expect(check.safeParse({ model: 'coppice-recall', prompt: 'a' }).success).toBe(true);
    expect(check.safeParse({ model: null, prompt: 'a', more: 1 }).success).toBe(true);
    expect(check.safeParse({ model: 'gpt-4', prompt: 'a' }).success).toBe(false);
    expect(check.safeParse({ prompt: 'a', best_of: 2 }).success).toBe(false);
    expect(check.safeParse({ prompt: 'a', temperature: 3 }).success).toBe(false);
  });
});

describe('replies of the demo model', () => {
  let live: LiveServer;
  let document: Document;
  beforeAll(async () => {
    live = await startLiveServer();
    document = (await (await fetch(`${live.listener.url}/openapi.json`)).json()) as Document;
  });
  afterAll(() => live.close());

  const tables = () => {
    const { context } = createContext(live.engine);
    return routeTable(createServerContext(context));
  };
  /** The route's schema, and the value as it comes out of it: without keys that it does not know. */
  function expectDescribed(path: string, kind: 'reply' | 'events', value: unknown) {
    const about = tables().find((route) => route.path === path)?.about;
    const described = kind === 'events' ? about?.events : about?.reply;
    if (described === undefined || !('schema' in described)) throw new Error(`no schema for ${path}`);
    expect(described.schema.parse(value)).toEqual(value);
    expect(checkOf(document, described.name).safeParse(value).error).toBeUndefined();
  }

  const pruning = {
    tokens: 'lazyllm',
    kv: { policy: 'snapkv', keep: 0.5 },
    layers: { policy: 'attention-drop', drop: [3] },
  };
  const text = 'The key of the red door is under the old stone. '.repeat(8);
  const bodies: [string, object][] = [
    ['/v1/chat/completions', { messages: [{ role: 'user', content: 'hello' }], max_tokens: 4 }],
    [
      '/v1/chat/completions',
      {
        messages: [{ role: 'user', content: text }],
        max_completion_tokens: 4,
        n: 2,
        logprobs: true,
        top_logprobs: 2,
        pruning: { ...pruning, tokens: { policy: 'lazyllm', prefill_only: true } },
        return_progress: true,
      },
    ],
    ['/v1/completions', { prompt: ['one', 'two'], max_tokens: 3, logprobs: 2, echo: true }],
    ['/v1/completions', { prompt: text, max_tokens: 3, pruning: 'balanced' }],
    ['/v1/completions', { prompt: [5, 6, 7], max_tokens: 3, pruning: 'none' }],
    [
      '/v1/responses',
      { input: 'hello', max_output_tokens: 4, instructions: 'be brief', metadata: { a: 'b' } },
    ],
    [
      '/v1/responses',
      {
        input: [{ role: 'user', content: text }],
        max_output_tokens: 4,
        include: ['message.output_text.logprobs'],
        top_logprobs: 1,
        pruning: 'balanced',
      },
    ],
  ];

  test.each(bodies)('%s, whole and streamed (%#)', async (path, body) => {
    const whole = { ...body, return_progress: undefined };
    const reply = await live.post(path, whole);
    expect(reply.status).toBe(200);
    expectDescribed(path, 'reply', await reply.json());
    for (const include_usage of [false, true]) {
      const options = path === '/v1/responses' ? {} : { stream_options: { include_usage } };
      const streamed = await live.post(path, { ...body, stream: true, ...options });
      expect(streamed.status).toBe(200);
      const events = (await readEvents(streamed)).map((piece) => piece.replace(/^event: .*\ndata: /, ''));
      expect(events.length).toBeGreaterThan(2);
      for (const event of events) if (event !== '[DONE]') expectDescribed(path, 'events', JSON.parse(event));
      const last = path === '/v1/responses' ? events.at(-1) : undefined;
      if (last !== undefined) expectDescribed(path, 'reply', (JSON.parse(last) as Json)['response']);
    }
  });

  test('everything else', async () => {
    const get = async (path: string) => (await fetch(live.listener.url + path)).json();
    for (const path of ['/v1/models', '/v1/policies', '/health', '/ready', '/openapi.json'])
      expectDescribed(path, 'reply', await get(path));
    expectDescribed('/v1/models/:id{.+}', 'reply', await get('/v1/models/coppice-recall'));
    const tokens = (await (await live.post('/tokenize', { prompt: 'one two' })).json()) as {
      tokens: number[];
    };
    expectDescribed('/tokenize', 'reply', tokens);
    const detokenized = await live.post('/detokenize', { tokens: tokens.tokens });
    expectDescribed('/detokenize', 'reply', await detokenized.json());
  });

  test('errors', async () => {
    const check = checkOf(document, 'Error');
    for (const [path, body] of [
      ['/v1/completions', { prompt: 3 }],
      ['/v1/chat/completions', { model: 'gpt-4', messages: [{ role: 'user', content: 'a' }] }],
      ['/nowhere', {}],
    ] as const) {
      const reply = await live.post(path, body);
      expect(reply.status).toBeGreaterThanOrEqual(400);
      expect(check.safeParse(await reply.json()).error, path).toBeUndefined();
    }
  });

  test('probes are no lines at level info', async () => {
    for (const path of ['/health', '/ready', '/metrics', '/v1/models']) await fetch(live.listener.url + path);
    await expect.poll(() => live.log().some(({ path }) => path === '/v1/models')).toBe(true);
    const probes = live.log().filter(({ path }) => ['/health', '/ready', '/metrics'].includes(String(path)));
    expect(probes).toEqual([]);
  });
});
