/** Pruning over HTTP: what reaches the engine, every mistake's `param`, the listings, and the reply's object. */
import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import type { PruningReport } from '../../src/runtime/protocol.ts';
import { pruningSettings, readPresets } from '../../src/server/presets.ts';
import { createTestServer, parseEvents, readEvents } from './support/app.ts';
import type { TestServer } from './support/app.ts';
import { ScriptedEngine, done, finished, saying, token } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const COMPLETIONS = '/v1/completions';
const HEADER = 'x-coppice-pruning';
const messages = [{ role: 'user', content: 'hello' }];
/** As many as the scripted model has: 6 layers of 4 KV heads. */
const gates = Array.from({ length: 6 }, (_, layer) => [0, 1, 2, 3].map((head) => (layer + head) / 9));

const snapkv = { kv: { policy: 'snapkv', keep: 0.25 } };
const lazyllm = { tokens: { policy: 'lazyllm', stages: [{ layer: 2, keep: 0.7 }], prefill_only: true } };

const flags = {
  'pruning.presets': JSON.stringify({
    mine: { summary: 'a quarter of the cache', pruning: snapkv },
    fast: { summary: 'our own', pruning: lazyllm },
    broken: { pruning: { kv: { policy: 'snapkv', keep: 2 } } },
    clash: { pruning: { tokens: 'lazyllm', kv: 'snapkv' } },
  }),
};

interface Served {
  readonly engine: ScriptedEngine;
  readonly server: TestServer;
}

function serve(more: Record<string, string> = {}, hasPattern = true): Served {
  const engine = new ScriptedEngine(saying([300, 301]), { gates: hasPattern ? gates : null });
  return { engine, server: createTestServer(engine, { ...flags, ...more }) };
}

async function choice(body: object, headers: Record<string, string> = {}, { engine, server } = serve()) {
  const response = await server.post(CHAT, { messages, ...body }, headers);
  expect(response.status).toBe(200);
  expect(response.headers.get('x-coppice-ignored-fields')).toBeNull();
  return engine.requests.at(-1)?.pruning;
}

const chosenSnapkv = { policy: 'snapkv', options: { keep: 0.25, observation_window: 32, sink: 0 } };

describe('what reaches the engine', () => {
  test('an object, with defaults filled in', async () => {
    expect(await choice({ pruning: { ...snapkv, tokens: null } })).toMatchObject({
      preset: null,
      families: { kv: chosenSnapkv },
    });
    expect(await choice({ pruning: { kv: 'duo-attention' } })).toEqual({
      preset: null,
      families: {
        kv: {
          policy: 'duo-attention',
          options: { sparsity: 0.5, sink: 16, recent: 64, prefill: 'streaming' },
        },
      },
    });
  });

  test('a preset of the operator, by field and by header; its own replace those of the package', async () => {
    const expected = { preset: 'mine', families: { kv: chosenSnapkv } };
    expect(await choice({ pruning: 'mine' })).toMatchObject(expected);
    expect(await choice({}, { [HEADER]: 'mine' })).toMatchObject(expected);
    expect(await choice({ pruning: null }, { [HEADER]: 'mine' })).toMatchObject(expected);
    expect(await choice({ pruning: 'fast' })).toMatchObject({
      preset: 'fast',
      families: { tokens: { policy: 'lazyllm' } },
    });
  });

  test('the body wins over the header, the header over the default', async () => {
    const served = serve({ 'pruning.default': 'mine' });
    expect(await choice({}, {}, served)).toMatchObject({ preset: 'mine' });
    expect(await choice({}, { [HEADER]: 'fast' }, served)).toMatchObject({ preset: 'fast' });
    const both = await choice({ pruning: 'mine' }, { [HEADER]: 'no-such-preset' }, served);
    expect(both).toMatchObject({ preset: 'mine' });
    expect(await choice({ pruning: 'none' }, {}, served)).toEqual({ preset: 'none', families: {} });
    expect(await choice({}, { [HEADER]: 'none' }, served)).toEqual({ preset: 'none', families: {} });
  });

  test('nothing, where nothing is asked', async () => {
    expect(await choice({})).toBeNull();
    expect(await choice({}, {}, serve({ 'pruning.default': '{}' }))).toBeNull();
  });

  test('an object as the default, for every prompt of a request', async () => {
    const { engine, server } = serve({ 'pruning.default': JSON.stringify(snapkv) });
    expect((await server.post(COMPLETIONS, { prompt: ['a', 'b'] })).status).toBe(200);
    expect(engine.requests).toHaveLength(2);
    for (const { pruning } of engine.requests)
      expect(pruning).toMatchObject({ preset: null, families: { kv: chosenSnapkv } });
  });
});

describe('mistakes: 400 with the path of the field, listing what is valid', () => {
  const stages = (...layers: number[]) => ({
    tokens: { policy: 'lazyllm', stages: layers.map((layer) => ({ layer, keep: 0.5 })) },
  });

  const rows: [unknown, string, RegExp][] = [
    ['no-such', 'pruning', /"none", "balanced", "fast", "mine".*got "no-such"/],
    ['', 'pruning', /got ""/],
    ['constructor', 'pruning', /got "constructor"/],
    [5, 'pruning', /preset's name or an object, got 5/],
    [['mine'], 'pruning', /preset's name or an object, got a list of 1/],
    [true, 'pruning', /got true/],
    [{ heads: 'x' }, 'pruning.heads', /"tokens", "kv", "visual", "layers"/],
    [{ kv: 'snapkvv' }, 'pruning.kv.policy', /"duo-attention".*"snapkv".*got "snapkvv"/],
    [{ kv: { policy: 'lazyllm' } }, 'pruning.kv.policy', /"snapkv".*got "lazyllm"/],
    [{ kv: { keep: 0.5 } }, 'pruning.kv.policy', /got nothing/],
    [{ kv: { policy: 5 } }, 'pruning.kv.policy', /got 5/],
    [{ kv: 5 }, 'pruning.kv', /policy's name or an object, got 5/],
    [{ tokens: 'none' }, 'pruning.tokens.policy', /"lazyllm".*got "none"/],
    [{ visual: 'flowcut' }, 'pruning.visual.policy', /got "flowcut"/],
    [{ kv: { policy: 'snapkv', kep: 0.5 } }, 'pruning.kv.kep', /no key "kep".*"keep", "max_entries"/],
    [{ kv: { policy: 'snapkv', keep: 0 } }, 'pruning.kv.keep', /got 0/],
    [{ kv: { policy: 'snapkv', keep: 1.1 } }, 'pruning.kv.keep', /got 1.1/],
    [{ kv: { policy: 'snapkv', keep: '0.5' } }, 'pruning.kv.keep', /number, got "0.5"/],
    [{ kv: { policy: 'snapkv', keep: 0.5, max_entries: 9 } }, 'pruning.kv.max_entries', /got both/],
    [{ kv: { policy: 'snapkv', sink: 1.5 } }, 'pruning.kv.sink', /got 1.5/],
    [{ kv: { policy: 'duo-attention', sparsity: -0.1 } }, 'pruning.kv.sparsity', /got -0.1/],
    [{ kv: { policy: 'duo-attention', prefill: 'x' } }, 'pruning.kv.prefill', /"streaming".*"exact"/],
    [stages(5), 'pruning.tokens.stages[0].layer', /got 5/],
    [stages(2, 1), 'pruning.tokens.stages[1].layer', /got 1/],
    [stages(), 'pruning.tokens.stages', /a list of 0/],
    [
      { tokens: { policy: 'lazyllm', stages: [{ layer: 1, keep: 2 }] } },
      'pruning.tokens.stages[0].keep',
      /got 2/,
    ],
    [{ tokens: 'lazyllm', kv: 'snapkv' }, 'pruning', /"prefill_only": true.*snapkv/],
    ['broken', 'pruning', /model can run, got "broken": kv.keep: .*got 2/],
    ['clash', 'pruning', /prefill_only/],
  ];

  async function expectMistake(response: Response, param: string, message: RegExp): Promise<void> {
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: { message: string } };
    expect(error).toMatchObject({ type: 'invalid_request_error', code: null, param });
    expect(error.message).toMatch(message);
    expect(error.message.startsWith(`${param}: `)).toBe(true);
  }

  test.each(rows)('%j', async (pruning, param, message) => {
    const { engine, server } = serve();
    await expectMistake(await server.post(CHAT, { messages, pruning }), param, message);
    await expectMistake(await server.post(CHAT, { messages, pruning, stream: true }), param, message);
    await expectMistake(await server.post(COMPLETIONS, { prompt: 'a', pruning }), param, message);
    expect(engine.requests).toEqual([]);
  });

  test.each(['no-such', '', '{"kv":"snapkv"}', 'broken', 'clash'])('header %j', async (value) => {
    const { server } = serve();
    await expectMistake(await server.post(CHAT, { messages }, { [HEADER]: value }), HEADER, /expected/);
  });

  test('a policy that the model cannot run, asked for itself and through a preset', async () => {
    const { server } = serve({}, false);
    const ask = (pruning: unknown) => server.post(CHAT, { messages, pruning });
    const reason = /duo-attention cannot run here: the model has no DuoAttention pattern/;
    await expectMistake(await ask({ kv: 'duo-attention' }), 'pruning.kv.policy', reason);
    await expectMistake(await ask('balanced'), 'pruning', reason);
    await expectMistake(await server.post(CHAT, { messages }, { [HEADER]: 'balanced' }), HEADER, reason);
    expect((await ask('mine')).status).toBe(200);
  });

  test('echo beside a tokens policy, wherever it comes from', async () => {
    const { server } = serve();
    const ask = (body: object, headers = {}) =>
      server.post(COMPLETIONS, { prompt: 'a', echo: true, ...body }, headers);
    const message = /no tokens policy beside "echo": true.*got "lazyllm"/;
    await expectMistake(await ask({ pruning: lazyllm, logprobs: 1 }), 'pruning', message);
    await expectMistake(await ask({ pruning: 'fast', max_tokens: 0 }), 'pruning', message);
    await expectMistake(await ask({ pruning: lazyllm }), 'pruning', message);
    await expectMistake(await ask({}, { [HEADER]: 'fast' }), HEADER, message);
    const byDefault = serve({ 'pruning.default': 'fast' }).server;
    const response = await byDefault.post(COMPLETIONS, { prompt: 'a', echo: true });
    await expectMistake(response, 'pruning', message);
    expect((await ask({ pruning: snapkv })).status).toBe(200);
    expect((await ask({ pruning: lazyllm, echo: false })).status).toBe(200);
  });

  test('a misspelt field is named, not refused', async () => {
    const response = await serve().server.post(CHAT, { messages, prunning: 'mine' });
    expect(response.status).toBe(200);
    expect(response.headers.get('x-coppice-ignored-fields')).toBe('prunning');
  });
});

describe('defaults and presets at start-up', () => {
  function start(values: Record<string, string>, hasPattern = true): unknown {
    const { pruning } = loadConfig({ flags: { ...flags, ...values } });
    const { shape } = new ScriptedEngine(saying([]), { gates: hasPattern ? gates : null }).model;
    return pruningSettings(readPresets(pruning), pruning, shape);
  }

  test.each([
    ['no-such', true, /pruning\.default: expected one of "none", "balanced".*got "no-such"/],
    ['broken', true, /pruning\.default\.kv\.keep/],
    ['balanced', false, /pruning\.default\.kv\.policy: duo-attention cannot run here/],
    ['{"kv":{"policy":"snapkv","keep":7}}', true, /pruning\.default\.kv\.keep.*got 7/],
    ['{"heads":"x"}', true, /pruning\.default\.heads/],
  ])('a default of %s ends the start', (value, hasPattern, message) => {
    expect(() => start({ 'pruning.default': value }, hasPattern)).toThrow(
      expect.objectContaining({
        errorCode: 'startup',
        message: expect.stringMatching(/^configuration key /) as string,
      }),
    );
    expect(() => start({ 'pruning.default': value }, hasPattern)).toThrow(message);
  });

  test('a preset that is no default may be one that the model cannot run', () => {
    expect(start({ 'pruning.default': 'mine' }, false)).toMatchObject({ byDefault: { preset: 'mine' } });
  });

  test('those of the package run on a model with a pattern', () => {
    for (const name of Object.keys(readPresets(loadConfig().pruning)))
      expect(start({ 'pruning.default': name, 'pruning.presets': '{}' })).toMatchObject({
        byDefault: { preset: name },
      });
  });
});

describe('listings', () => {
  async function get(path: string, { server } = serve()) {
    const response = await server.app.request(path);
    expect(response.status).toBe(200);
    return (await response.json()) as { data: Record<string, unknown>[]; presets: Record<string, unknown>[] };
  }

  test('/v1/policies: policies with their options, presets with their reasons', async () => {
    const list = await get('/v1/policies');
    expect(list).toMatchObject({ object: 'list' });
    const duo = list.data.find(({ name }) => name === 'duo-attention');
    expect(Object.keys(duo ?? {})).toEqual([
      'name',
      'family',
      'summary',
      'paper',
      'needs',
      'supported',
      'options',
      'examples',
    ]);
    expect(duo).toMatchObject({
      family: 'kv',
      paper: '2410.10819',
      needs: ['head-pattern'],
      supported: true,
      options: { type: 'object', properties: { sparsity: { default: 0.5, minimum: 0, maximum: 1 } } },
    });
    expect(list.presets.map(({ name }) => name)).toEqual(['balanced', 'fast', 'mine', 'broken', 'clash']);
    expect(list.presets[2]).toEqual({
      name: 'mine',
      summary: 'a quarter of the cache',
      pruning: snapkv,
      supported: true,
    });
    expect(list.presets[1]).toMatchObject({ summary: 'our own', supported: true });
    expect(list.presets[3]).toMatchObject({
      supported: false,
      reason: expect.stringMatching(/keep/) as string,
    });
  });

  test('/v1/policies of a model without a pattern', async () => {
    const list = await get('/v1/policies', serve({}, false));
    const reason = expect.stringMatching(/no DuoAttention pattern/) as string;
    expect(list.data.find(({ name }) => name === 'duo-attention')).toMatchObject({
      supported: false,
      reason,
    });
    expect(list.presets[0]).toMatchObject({ name: 'balanced', supported: false, reason });
    expect(list.presets[2]).toMatchObject({ name: 'mine', supported: true });
  });

  test.each([true, false])('every example of a policy is a request, pattern: %s', async (hasPattern) => {
    const { server } = serve({}, hasPattern);
    const { data } = await get('/v1/policies', { engine: new ScriptedEngine(saying([])), server });
    const policies = data as { name: string; family: string; supported: boolean; examples: unknown[] }[];
    for (const { family, supported, examples } of policies) {
      for (const example of examples) {
        const response = await server.post(CHAT, { messages, pruning: { [family]: example } });
        expect({ example, status: response.status }).toEqual({ example, status: supported ? 200 : 400 });
      }
    }
  });

  test('/v1/models: names by family, as far as the model can run them', async () => {
    const one = async (hasPattern: boolean) => {
      const served = serve({}, hasPattern);
      const { data } = await get('/v1/models', served);
      expect([await get('/v1/models/coppice-recall', served)]).toEqual(data);
      return data[0]?.pruning as Record<string, string[]>;
    };
    const pruning = await one(true);
    expect(Object.keys(pruning)).toEqual(['tokens', 'kv', 'visual', 'layers']);
    expect(pruning.tokens).toContain('lazyllm');
    expect(pruning.kv).toEqual(expect.arrayContaining(['duo-attention', 'snapkv']));
    const without = await one(false);
    expect(without.kv).toEqual(pruning.kv?.filter((name) => name !== 'duo-attention'));
  });

  test('while the model loads: 503', async () => {
    expect((await createTestServer(null).app.request('/v1/policies')).status).toBe(503);
  });
});

describe('the reply', () => {
  const asked = {
    tokens: lazyllm.tokens,
    kv: { policy: 'duo-attention', sparsity: 0.5 },
  };

  /** Of one prompt; another number for each, so that sums can be told from copies. */
  function report(factor: number): PruningReport {
    return {
      tokens: {
        seen: 100 * factor,
        stages: [
          { layer: 2, seen: 100 * factor, kept: 70 * factor },
          { layer: 4, seen: 70 * factor, kept: 35 * factor },
        ],
        rowsComputed: 475 * factor,
        layers: 6,
        revived: 3 * factor,
        auxBytes: 1000 * factor,
      },
      kv: {
        bytes: 5000 * factor,
        peakBytes: 6000 * factor,
        denseBytes: 9000 * factor,
        entriesKept: 50 * factor,
        entriesSeen: 90 * factor,
        retrievalHeads: 12,
        streamingHeads: 12,
      },
      layers: null,
    };
  }

  /** A server whose engine reports so for its prompts in turn. */
  function reporting(...reports: (PruningReport | null)[]): TestServer {
    let numPrompts = 0;
    const engine = new ScriptedEngine(
      function* (request) {
        const own = reports[numPrompts++ % reports.length] ?? null;
        for (let i = 0; i < request.numChoices; i++) {
          yield token(300, i);
          yield finished('stop', i);
        }
        yield done(request, request.numChoices, own);
      },
      { gates },
    );
    return createTestServer(engine, flags);
  }

  const whole = async (server: TestServer, path: string, body: object) =>
    (await (await server.post(path, body)).json()) as Record<string, unknown>;

  const one = {
    preset: null,
    tokens: {
      policy: 'lazyllm',
      seen: 100,
      stages: [
        { layer: 2, seen: 100, kept: 70 },
        { layer: 4, seen: 70, kept: 35 },
      ],
      computed_share: 0.7917,
      revived: 3,
      aux_bytes: 1000,
    },
    kv: {
      policy: 'duo-attention',
      bytes: 5000,
      peak_bytes: 6000,
      dense_bytes: 9000,
      entries_kept: 50,
      entries_seen: 90,
      retrieval_heads: 12,
      streaming_heads: 12,
    },
  };

  test('of one prompt', async () => {
    const reply = await whole(reporting(report(1)), CHAT, { messages, pruning: asked });
    expect(reply.pruning).toEqual(one);
  });

  test('of several prompts: sums, but for what describes the plan', async () => {
    const reply = await whole(reporting(report(1), report(2), report(4)), COMPLETIONS, {
      prompt: ['a', 'b', 'c'],
      n: 2,
      pruning: asked,
    });
    expect(reply.pruning).toEqual({
      preset: null,
      tokens: {
        ...one.tokens,
        seen: 700,
        stages: [
          { layer: 2, seen: 700, kept: 490 },
          { layer: 4, seen: 490, kept: 245 },
        ],
        revived: 21,
        aux_bytes: 7000,
      },
      kv: {
        ...one.kv,
        bytes: 35_000,
        peak_bytes: 42_000,
        dense_bytes: 63_000,
        entries_kept: 350,
        entries_seen: 630,
      },
    });
  });

  test('stages that only some prompts reached are sums of those', async () => {
    const { tokens, ...others } = report(1);
    const cut = { ...others, tokens: tokens && { ...tokens, stages: tokens.stages.slice(1) } };
    const body = { prompt: ['a', 'b'], pruning: asked };
    const reply = await whole(reporting(cut, report(1)), COMPLETIONS, body);
    expect(reply.pruning).toMatchObject({
      tokens: {
        stages: [
          { layer: 2, seen: 100, kept: 70 },
          { layer: 4, seen: 140, kept: 70 },
        ],
      },
    });
  });

  test('a family that is not in force is absent; heads are, too, where no head streams', async () => {
    const { kv } = report(1);
    const evicted = {
      tokens: null,
      layers: null,
      kv: kv && { ...kv, retrievalHeads: null, streamingHeads: null },
    };
    const reply = await whole(reporting(evicted), CHAT, { messages, pruning: 'mine' });
    expect(reply.pruning).toEqual({
      preset: 'mine',
      kv: {
        policy: 'snapkv',
        bytes: 5000,
        peak_bytes: 6000,
        dense_bytes: 9000,
        entries_kept: 50,
        entries_seen: 90,
      },
    });
  });

  test('"none" is answered, silence is not', async () => {
    const server = reporting(null);
    expect((await whole(server, CHAT, { messages, pruning: 'none' })).pruning).toEqual({ preset: 'none' });
    expect(await whole(server, CHAT, { messages })).not.toHaveProperty('pruning');
    const reply = await server.post(CHAT, { messages }, { [HEADER]: 'none' });
    expect(await reply.json()).toMatchObject({ pruning: { preset: 'none' } });
  });

  test('what is left out by default is reported', async () => {
    const { server } = serve({ 'pruning.default': 'mine' });
    expect((await whole(server, CHAT, { messages })).pruning).toEqual({ preset: 'mine' });
  });

  describe('streamed', () => {
    interface Chunk {
      choices: { finish_reason: string | null }[];
      usage?: object | null;
      pruning?: object;
    }

    async function chunks(path: string, body: object, server = reporting(report(1))): Promise<Chunk[]> {
      const response = await server.post(path, { ...body, stream: true });
      return parseEvents<Chunk>(await readEvents(response));
    }

    const bodies: [string, object][] = [
      [CHAT, { messages, n: 2 }],
      [COMPLETIONS, { prompt: 'a', n: 2 }],
    ];

    test.each(bodies)('%s: on the last chunk with a finish_reason', async (path, body) => {
      const all = await chunks(path, { ...body, pruning: asked });
      expect(all.filter((chunk) => 'pruning' in chunk)).toEqual([all.at(-1)]);
      expect(all.at(-1)).toMatchObject({ pruning: one, choices: [{ finish_reason: 'stop' }] });
    });

    test.each(bodies)('%s: on the usage chunk if there is one', async (path, body) => {
      const all = await chunks(path, { ...body, pruning: asked, stream_options: { include_usage: true } });
      expect(all.filter((chunk) => 'pruning' in chunk)).toEqual([all.at(-1)]);
      expect(all.at(-1)).toMatchObject({ pruning: one, choices: [], usage: { completion_tokens: 2 } });
    });

    test('"none" and silence', async () => {
      const none = await chunks(CHAT, { messages, pruning: 'none' }, reporting(null));
      expect(none.at(-1)?.pruning).toEqual({ preset: 'none' });
      const silent = await chunks(CHAT, { messages }, reporting(null));
      expect(silent.filter((chunk) => 'pruning' in chunk)).toEqual([]);
    });
  });
});

test('layers: blocks and heads that are left out', async () => {
  const { pruningObject } = await import('../../src/server/pruning-report.ts');
  const { sumPruning } = await import('../../src/runtime/pruning/report.ts');
  const layers = { droppedAttention: 2, droppedMlp: 1, maskedHeads: 3 };
  const plan = { tokens: null, kv: null, layers };
  const chosen = { preset: null, families: { layers: { policy: 'any', options: {} } } };
  expect(pruningObject(chosen, sumPruning([plan, null, plan]))).toEqual({
    preset: null,
    layers: { policy: 'any', dropped_attention: 2, dropped_mlp: 1, masked_heads: 3 },
  });
});

test.each([
  [{ pruning: 'mine' }, 'mine'],
  [{ pruning: { ...lazyllm, ...snapkv } }, 'lazyllm+snapkv'],
  [{ pruning: 'none' }, 'none'],
  [{}, 'none'],
])('the log line of %j names the policy', async (body, policy) => {
  const { server } = serve();
  await server.post(CHAT, { messages, ...body });
  expect(server.log()).toMatchObject([{ policy }]);
});
