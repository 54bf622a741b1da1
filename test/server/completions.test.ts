/** Completions with the real engine: prompt forms, echo, the older shape of logprobs. */
import type OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startLiveServer } from './support/live.ts';
import type { LiveServer } from './support/live.ts';

let server: LiveServer;
beforeAll(async () => {
  server = await startLiveServer();
});
afterAll(async () => {
  await server.close();
});

const model = 'coppice-recall';
type Params = Record<string, unknown>;

function complete(params: Params): Promise<OpenAI.Completion> {
  return server.client.completions.create({
    model,
    ...params,
  } as unknown as OpenAI.CompletionCreateParamsNonStreaming);
}

async function stream(params: Params): Promise<OpenAI.Completion[]> {
  const body = { model, ...params, stream: true } as unknown as OpenAI.CompletionCreateParamsStreaming;
  const chunks: OpenAI.Completion[] = [];
  for await (const chunk of await server.client.completions.create(body)) chunks.push(chunk);
  return chunks;
}

async function tokenize(prompt: string): Promise<number[]> {
  return ((await (await server.post('/tokenize', { prompt })).json()) as { tokens: number[] }).tokens;
}

const prompt = 'The code of red is';

describe('prompt forms', () => {
  test('ids are the text they stand for', async () => {
    const byText = await complete({ prompt, ignore_eos: true });
    const byIds = await complete({ prompt: await tokenize(prompt), ignore_eos: true });
    expect(byText.usage?.completion_tokens).toBe(16);
    expect(byIds.choices[0]?.text).toBe(byText.choices[0]?.text);
  });

  test('several prompts with several choices, in order', async () => {
    const prompts = [prompt, 'One two three'];
    const params = { n: 2, seed: 3, temperature: 1, max_tokens: 6, ignore_eos: true };
    const together = await complete({ prompt: prompts, ...params });
    expect(together.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    const alone = [
      await complete({ prompt, ...params }),
      await complete({ prompt: prompts[1] ?? '', ...params }),
    ];
    expect(together.choices.map(({ text }) => text)).toEqual(
      alone.flatMap(({ choices }) => choices.map(({ text }) => text)),
    );
    expect(together.usage?.prompt_tokens).toBe(
      alone.reduce((sum, { usage }) => sum + (usage?.prompt_tokens ?? 0), 0),
    );
    expect(together.usage?.completion_tokens).toBe(24);
    const chunks = await stream({ prompt: prompts, ...params });
    for (const { index, text } of together.choices) {
      const own = chunks.flatMap(({ choices }) => choices).filter((choice) => choice.index === index);
      expect(own.map((choice) => choice.text).join('')).toBe(text);
      expect(own.at(-1)).toMatchObject({ text: '', finish_reason: 'length' });
    }
  });
});

describe('logprobs in the older shape', () => {
  test('of the completion', async () => {
    const { choices } = await complete({
      prompt,
      max_tokens: 8,
      logprobs: 2,
      temperature: 0,
      ignore_eos: true,
    });
    const {
      tokens,
      token_logprobs: values,
      top_logprobs: top,
      text_offset: offsets,
    } = choices[0]?.logprobs ?? {};
    expect(tokens?.join('')).toBe(choices[0]?.text);
    expect(values).toHaveLength(8);
    tokens?.forEach((token, i) => {
      expect(Object.keys(top?.[i] ?? {})).toHaveLength(2);
      expect(top?.[i]?.[token]).toBe(values?.[i]);
      expect(choices[0]?.text.slice(offsets?.[i]).startsWith(token)).toBe(true);
    });
  });

  test('streamed pieces join to the whole', async () => {
    const params = { prompt, max_tokens: 8, logprobs: 1, echo: true, ignore_eos: true };
    const whole = (await complete(params)).choices[0];
    const parts = (await stream(params)).flatMap(({ choices }) => choices);
    expect(parts.map(({ text }) => text).join('')).toBe(whole?.text);
    for (const key of ['tokens', 'token_logprobs', 'text_offset'] as const) {
      expect(parts.flatMap(({ logprobs }): unknown[] => logprobs?.[key] ?? [])).toEqual(
        whole?.logprobs?.[key],
      );
    }
  });

  test('logprobs 0 tells of the chosen token alone', async () => {
    const { choices } = await complete({ prompt, max_tokens: 3, logprobs: 0, ignore_eos: true });
    const top = choices[0]?.logprobs?.top_logprobs ?? [];
    expect(top.map((entry) => Object.keys(entry))).toEqual(
      choices[0]?.logprobs?.tokens?.map((token) => [token]),
    );
  });
});

describe('echo', () => {
  test('repeats the prompt before the completion', async () => {
    const plain = await complete({ prompt, max_tokens: 4 });
    const echoed = await complete({ prompt, max_tokens: 4, echo: true });
    expect(echoed.choices[0]?.text).toBe(prompt + (plain.choices[0]?.text ?? ''));
    expect(echoed.choices[0]?.logprobs).toBeNull();
  });

  test('max_tokens 0 scores a text: what the engine says of it token by token when it goes on to it', async () => {
    const ids = await tokenize(`${prompt} nine and the code of blue is ten`);
    const scored = await complete({ prompt: ids, max_tokens: 0, echo: true, logprobs: 1 });
    const { tokens, token_logprobs: values, top_logprobs: top } = scored.choices[0]?.logprobs ?? {};
    expect(scored).toMatchObject({ usage: { prompt_tokens: ids.length, completion_tokens: 0 } });
    expect(scored.choices[0]?.finish_reason).toBe('length');
    expect(tokens).toHaveLength(ids.length);
    expect(values?.[0]).toBeNull();
    expect(top?.[0]).toBeNull();
    const at = ids.length - 3;
    const single = await complete({
      prompt: ids.slice(0, at),
      max_tokens: 1,
      logprobs: 1,
      logit_bias: { [String(ids[at])]: 100 },
      ignore_eos: true,
    });
    expect(single.choices[0]?.logprobs?.tokens?.[0]).toBe(tokens?.[at]);
    expect(single.choices[0]?.logprobs?.token_logprobs?.[0]).toBeCloseTo(values?.[at] ?? 0, 1);
  });

  test('max_tokens 0 without logprobs is the prompt again', async () => {
    const { choices, usage } = await complete({ prompt: [prompt, 'x'], max_tokens: 0, echo: true });
    expect(choices.map(({ text, logprobs }) => ({ text, logprobs }))).toEqual([
      { text: prompt, logprobs: null },
      { text: 'x', logprobs: null },
    ]);
    expect(usage?.completion_tokens).toBe(0);
  });

  test('offsets count characters, not UTF-16 units, and go on into the completion', async () => {
    const text = 'a 😀 b';
    const { choices } = await complete({
      prompt: text,
      max_tokens: 2,
      echo: true,
      logprobs: 0,
      ignore_eos: true,
    });
    const offsets = choices[0]?.logprobs?.text_offset ?? [];
    const numPrompt = (await tokenize(text)).length;
    expect(offsets[0]).toBe(0);
    expect(offsets[numPrompt]).toBe(Array.from(text).length);
    expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
  });
});

test('tokenize and detokenize are inverse', async () => {
  const text = 'Hello <|im_end|> wörld 😀\n';
  const tokens = await tokenize(text);
  expect(tokens).toContain(2);
  expect(await (await server.post('/detokenize', { tokens })).json()).toEqual({ prompt: text });
});
