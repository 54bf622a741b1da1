/** Pruning: every example that the server gives, presets, header, what replies say of it, and errors. */
import { beforeAll, describe, expect, test } from 'vitest';
import { CHAT, COMPLETIONS, RESPONSES, expectError, target } from './support/target.ts';

interface Policy {
  readonly name: string;
  readonly family: string;
  readonly supported: boolean;
  readonly examples: readonly unknown[];
}
interface Preset {
  readonly name: string;
  readonly supported?: boolean;
}
type Families = Record<string, Record<string, unknown>>;

const prompt = 'Remember that the key code of the old hammer is 3426. '.repeat(12);
const plain = { prompt, max_tokens: 2, ignore_eos: true, temperature: 0 };
const ask = (fields: object, headers: Record<string, string> = {}) =>
  target.post(COMPLETIONS, { ...plain, ...fields }, headers);
const pruningOf = async (fields: object, headers: Record<string, string> = {}) => {
  const reply = await ask(fields, headers);
  expect(reply.status, reply.text).toBe(200);
  return reply.json['pruning'];
};

let policies: Policy[];
let presets: Preset[];
beforeAll(async () => {
  const { json } = await target.request('/v1/policies');
  policies = json['data'] as Policy[];
  presets = json['presets'] as Preset[];
});

test('every example of every policy is run, or refused where the model cannot', async () => {
  const dense = (await ask({})).json;
  for (const { name, family, supported, examples } of policies) {
    for (const example of examples) {
      const reply = await ask({ pruning: { [family]: example } });
      if (!supported) {
        expectError(reply, { status: 400, param: new RegExp(`^pruning\\.${family}`) });
        continue;
      }
      expect(reply.status, `${name} ${JSON.stringify(example)}: ${reply.text}`).toBe(200);
      const pruning = reply.json['pruning'] as Families & { preset: null };
      expect(Object.keys(pruning).sort()).toEqual([family, 'preset'].sort());
      expect(pruning.preset).toBeNull();
      expect(pruning[family]).toMatchObject({ policy: name });
      if (family === 'kv') expectKv(pruning[family]);
      if (family === 'tokens') expectTokens(pruning[family], reply.json['usage'] as Usage);
      const { prompt_tokens: sent, completion_tokens: made } = reply.json['usage'] as Usage;
      expect({ sent, made }).toEqual({ sent: (dense['usage'] as Usage).prompt_tokens, made: 2 });
    }
  }
});

interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
}

function expectKv(kv: Record<string, unknown> | undefined): void {
  const {
    bytes,
    peak_bytes: peak,
    dense_bytes: dense,
    entries_kept: kept,
    entries_seen: seen,
  } = kv as Record<string, number>;
  expect(bytes).toBeGreaterThan(0);
  expect(peak).toBeGreaterThanOrEqual(bytes ?? 0);
  expect(kept).toBeLessThanOrEqual(seen ?? 0);
  expect((bytes ?? 0) / (dense ?? 1)).toBeCloseTo((kept ?? 0) / (seen ?? 1), 3);
}

interface Stage {
  readonly layer: number;
  readonly seen: number;
  readonly kept: number;
}

function expectTokens(tokens: Record<string, unknown> | undefined, usage: Usage): void {
  const {
    seen,
    stages,
    computed_share: share,
  } = tokens as { seen: number; stages: Stage[]; computed_share: number };
  expect(seen).toBe(usage.prompt_tokens);
  expect(tokens).toMatchObject({
    revived: expect.any(Number) as number,
    aux_bytes: expect.any(Number) as number,
  });
  expect(share).toBeGreaterThan(0);
  expect(share).toBeLessThanOrEqual(1);
  for (const stage of stages) {
    expect(stage.kept).toBeLessThanOrEqual(stage.seen);
    expect(stage.seen).toBeLessThanOrEqual(seen);
  }
}

test('a stage keeps n - floor((1 - keep) n)', async () => {
  if (policies.find(({ name }) => name === 'lazyllm')?.supported !== true) return;
  const stages = [{ layer: 0, keep: 0.73 }];
  const { tokens } = (await pruningOf({ pruning: { tokens: { policy: 'lazyllm', stages } } })) as {
    tokens: { seen: number; stages: Stage[] };
  };
  expect(tokens.stages).toEqual([
    { layer: 0, seen: tokens.seen, kept: tokens.seen - Math.floor(0.27 * tokens.seen + 1e-9) },
  ]);
});

describe('presets', () => {
  test('each by name, in the body and in the header', async () => {
    expect(presets.length).toBeGreaterThan(0);
    for (const { name, supported } of presets) {
      if (supported === false) expectError(await ask({ pruning: name }), { status: 400, param: 'pruning' });
      else {
        expect(await pruningOf({ pruning: name })).toMatchObject({ preset: name });
        expect(await pruningOf({}, { 'x-coppice-pruning': name })).toMatchObject({ preset: name });
      }
    }
  });

  test('the body goes before the header; none is a preset; nothing asked, nothing said', async () => {
    const [{ name } = { name: '' }] = presets;
    const header = { 'x-coppice-pruning': name };
    expect(await pruningOf({ pruning: 'none' }, header)).toEqual({ preset: 'none' });
    expect(await pruningOf({}, { 'x-coppice-pruning': 'none' })).toEqual({ preset: 'none' });
    expect(await pruningOf({ pruning: { kv: 'snapkv' } }, header)).toMatchObject({ preset: null });
    expect(await pruningOf({})).toBeUndefined();
    const bad = await ask({}, { 'x-coppice-pruning': 'no-such' });
    expectError(bad, { status: 400, param: 'x-coppice-pruning' });
  });
});

test('the object on every route, streamed and not', async () => {
  const pruning = { kv: { policy: 'snapkv', keep: 0.5 } };
  const whole = await pruningOf({ pruning });
  const counted = async (fields: object) => {
    const { objects } = await target.stream(COMPLETIONS, { ...plain, pruning, ...fields });
    const having = objects.filter((object) => 'pruning' in object);
    expect(having).toEqual([objects.at(-1)]);
    return having[0];
  };
  expect((await counted({}))?.['pruning']).toEqual(whole);
  expect((await counted({}))?.['choices']).toHaveLength(1);
  const usage = await counted({ stream_options: { include_usage: true } });
  expect(usage).toMatchObject({ choices: [], pruning: whole });
  const said = { messages: [{ role: 'user', content: prompt }], max_tokens: 2, ignore_eos: true };
  const chat = (await target.post(CHAT, { ...said, pruning })).json;
  const response = (
    await target.post(RESPONSES, { input: prompt, max_output_tokens: 2, pruning, ignore_eos: true })
  ).json;
  expect(response['pruning']).toEqual(chat['pruning']);
});

test('several choices and prompts are summed', async () => {
  const pruning = { kv: { policy: 'snapkv', keep: 0.5 } };
  const { kv: one } = (await pruningOf({ pruning })) as Families;
  const { kv: two } = (await pruningOf({ pruning, prompt: [prompt, prompt] })) as Families;
  expect(two?.['entries_seen']).toBe(2 * Number(one?.['entries_seen']));
  expect(two?.['bytes']).toBe(2 * Number(one?.['bytes']));
});

describe('errors', () => {
  test.each<[unknown, string]>([
    ['no-such', 'pruning'],
    [5, 'pruning'],
    [{ tail: 'x' }, 'pruning.tail'],
    [{ kv: 'no-such' }, 'pruning.kv.policy'],
    [{ kv: { policy: 'no-such' } }, 'pruning.kv.policy'],
    [{ kv: { keep: 0.5 } }, 'pruning.kv.policy'],
    [{ kv: { policy: 'snapkv', keep: 2 } }, 'pruning.kv.keep'],
    [{ kv: { policy: 'snapkv', keep: 0.5, max_entries: 50 } }, 'pruning.kv.max_entries'],
    [{ kv: { policy: 'snapkv', kep: 0.5 } }, 'pruning.kv.kep'],
    [{ tokens: { policy: 'lazyllm', stages: [{ layer: 0, keep: 'x' }] } }, 'pruning.tokens.stages[0].keep'],
    [{ tokens: { policy: 'lazyllm', stages: [{ layer: 99, keep: 0.5 }] } }, 'pruning.tokens.stages[0].layer'],
    [{ tokens: { policy: 'lazyllm', prefill_only: false }, kv: 'snapkv' }, 'pruning'],
  ])('%j', async (pruning, param) => {
    const message = expectError(await ask({ pruning }), { status: 400, param });
    expect(message).toMatch(/expected/);
  });

  test('echo with a tokens policy', async () => {
    expectError(await ask({ echo: true, pruning: { tokens: 'lazyllm' } }), {
      status: 400,
      param: /^pruning/,
    });
  });
});
