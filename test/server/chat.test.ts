/** Chat completions with the real engine, through the official client. */
import OpenAI from 'openai';
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

type Params = Omit<OpenAI.ChatCompletionCreateParamsNonStreaming, 'model' | 'messages'>;
/** Our fields and vLLM's, which the client's types do not know. */
type Extra = Record<string, unknown>;

const question: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'What is the code of red?' }];
const model = 'coppice-recall';

function ask(params: Params & Extra = {}, messages = question) {
  return server.client.chat.completions.create({
    model,
    messages,
    ...params,
  } as OpenAI.ChatCompletionCreateParamsNonStreaming);
}

async function stream(params: Params & Extra = {}, messages = question) {
  const chunks: OpenAI.ChatCompletionChunk[] = [];
  const body = { model, messages, ...params, stream: true } as OpenAI.ChatCompletionCreateParamsStreaming;
  for await (const chunk of await server.client.chat.completions.create(body)) chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
  return { chunks, text };
}

function content(completion: OpenAI.ChatCompletion, index = 0): string {
  return completion.choices[index]?.message.content ?? '';
}

test('streamed and whole replies are the same text', async () => {
  const whole = await ask({ max_tokens: 30, ignore_eos: true });
  const { chunks, text } = await stream({ max_tokens: 30, ignore_eos: true });
  expect(content(whole).length).toBeGreaterThan(10);
  expect(text).toBe(content(whole));
  expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe('length');
  expect(whole).toMatchObject({ object: 'chat.completion', model, usage: { completion_tokens: 30 } });
  expect(whole.id).toMatch(/^chatcmpl-/);
});

test('the model ends its answer with its own end of sequence, which is no text', async () => {
  const completion = await ask();
  expect(completion.choices[0]?.finish_reason).toBe('stop');
  expect(content(completion)).not.toContain('<|');
});

test('usage is what the engine counted', async () => {
  const before = await server.engine.stats();
  const { usage } = await ask({ max_tokens: 7, n: 2, ignore_eos: true, cache_prompt: false });
  const after = await server.engine.stats();
  expect(usage?.prompt_tokens).toBe(after.promptTokens - before.promptTokens);
  expect(usage?.completion_tokens).toBe(14);
  expect(after.generatedTokens - before.generatedTokens).toBe(14);
});

describe('logprobs', () => {
  test('of every token, with alternatives and bytes, streamed and not', async () => {
    const params = { max_tokens: 12, logprobs: true, top_logprobs: 3, ignore_eos: true };
    const whole = await ask(params);
    const entries = whole.choices[0]?.logprobs?.content ?? [];
    expect(entries).toHaveLength(12);
    for (const { token, logprob, bytes, top_logprobs: top } of entries) {
      expect(top).toHaveLength(3);
      expect(logprob).toBeLessThanOrEqual(0);
      // Greedy: the chosen token is the best of the alternatives.
      expect(top[0]).toEqual({ token, logprob, bytes });
      expect(top.map((entry) => entry.logprob)).toEqual(
        top.map((entry) => entry.logprob).toSorted((a, b) => b - a),
      );
      expect(top.reduce((sum, entry) => sum + Math.exp(entry.logprob), 0)).toBeLessThanOrEqual(1 + 1e-6);
    }
    // Past the end of its answer the model goes on with control tokens, which are no text.
    const bytes = entries.flatMap((entry) => (entry.token.startsWith('<|') ? [] : (entry.bytes ?? [])));
    expect(new TextDecoder().decode(new Uint8Array(bytes))).toBe(content(whole));
    const { chunks } = await stream(params);
    expect(chunks.flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? [])).toEqual(entries);
  });

  test('token ids in place of text', async () => {
    const completion = await ask({
      max_tokens: 2,
      logprobs: true,
      return_tokens_as_token_ids: true,
      ignore_eos: true,
    });
    const names = completion.choices[0]?.logprobs?.content?.map(({ token }) => token) ?? [];
    expect(names).toHaveLength(2);
    const tokens = names.map((name) => Number(/^token_id:(\d+)$/.exec(name)?.[1]));
    const { prompt } = (await (await server.post('/detokenize', { tokens })).json()) as { prompt: string };
    expect(prompt).toBe(content(completion));
  });

  test('absent unless asked for', async () => {
    expect((await ask({ max_tokens: 2 })).choices[0]?.logprobs).toBeNull();
  });
});

describe('choices and seeds', () => {
  const params = { n: 3, seed: 11, temperature: 1.5, max_tokens: 12, ignore_eos: true };

  test('a seed gives the same choices again, which differ from each other', async () => {
    const [first, second, other] = [await ask(params), await ask(params), await ask({ ...params, seed: 12 })];
    const texts = [0, 1, 2].map((index) => content(first, index));
    expect(first.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect([0, 1, 2].map((index) => content(second, index))).toEqual(texts);
    expect([0, 1, 2].map((index) => content(other, index))).not.toEqual(texts);
    expect(new Set(texts).size).toBeGreaterThan(1);
  });

  test('streamed, choices interleave under their index', async () => {
    const whole = await ask(params);
    const { chunks } = await stream(params);
    for (const index of [0, 1, 2]) {
      const own = chunks.flatMap(({ choices }) => choices).filter((choice) => choice.index === index);
      expect(own.map(({ delta }) => delta.content ?? '').join('')).toBe(content(whole, index));
      expect(own.at(-1)?.finish_reason).toBe('length');
    }
  });
});

describe('sampling fields change the text', () => {
  const base = { max_tokens: 16, ignore_eos: true };

  test.each([
    ['temperature', { temperature: 2, seed: 1 }],
    ['logit_bias', { logit_bias: { 300: 100 } }],
    ['repetition_penalty', { repetition_penalty: 5 }],
    ['frequency_penalty', { frequency_penalty: 2 }],
    ['presence_penalty', { presence_penalty: 2 }],
  ])('%s', async (_, params) => {
    const long = { ...base, max_tokens: 60 };
    expect(content(await ask({ ...long, ...params }))).not.toBe(content(await ask(long)));
  });

  test.each([
    ['top_k 1', { top_k: 1 }],
    ['top_p 0', { top_p: 0 }],
    ['min_p 1', { min_p: 1 }],
  ])('%s is greedy at any temperature', async (_, params) => {
    expect(content(await ask({ ...base, temperature: 2, ...params }))).toBe(content(await ask(base)));
  });
});

describe('ends', () => {
  test('stop string', async () => {
    const full = content(await ask({ max_tokens: 30, ignore_eos: true }));
    const stop = full.slice(8, 11);
    const completion = await ask({ max_tokens: 30, ignore_eos: true, stop });
    expect(content(completion)).toBe(full.slice(0, full.indexOf(stop)));
    expect(completion.choices[0]?.finish_reason).toBe('stop');
    expect(completion.usage?.completion_tokens).toBeLessThan(30);
    expect((await stream({ max_tokens: 30, ignore_eos: true, stop })).text).toBe(content(completion));
    await server.until(({ running }) => running === 0);
  });

  test('stop_token_ids', async () => {
    const { choices } = await ask({
      max_tokens: 5,
      logprobs: true,
      return_tokens_as_token_ids: true,
      ignore_eos: true,
    });
    const ids =
      choices[0]?.logprobs?.content?.map(({ token }) => Number(token.slice('token_id:'.length))) ?? [];
    const stopped = await ask({ max_tokens: 5, ignore_eos: true, stop_token_ids: [ids[2]] });
    expect(stopped.choices[0]?.finish_reason).toBe('stop');
    expect(stopped.usage?.completion_tokens).toBe(ids.indexOf(ids[2] ?? -1) + 1);
  });

  test('min_tokens puts off the end of sequence', async () => {
    const free = await ask();
    const length = free.usage?.completion_tokens ?? 0;
    const longer = await ask({ min_tokens: length + 5, max_tokens: length + 5 });
    expect(longer.usage?.completion_tokens).toBe(length + 5);
  });

  test('max_completion_tokens', async () => {
    const completion = await ask({ max_completion_tokens: 1, ignore_eos: true });
    expect(completion).toMatchObject({
      usage: { completion_tokens: 1 },
      choices: [{ finish_reason: 'length' }],
    });
  });
});

describe('prefix cache', () => {
  const long = (tag: string): OpenAI.ChatCompletionMessageParam[] => [
    { role: 'user', content: `${tag} ${'The code of red is nine. '.repeat(60)}` },
  ];
  /** More than the start of the template, which every prompt shares. */
  const numShared = 8;
  const cached = (completion: OpenAI.ChatCompletion) =>
    completion.usage?.prompt_tokens_details?.cached_tokens;

  test('a prompt sent again is cached, at most 64 tokens short', async () => {
    const first = await ask({ max_tokens: 2 }, long('alpha'));
    const second = await ask({ max_tokens: 2 }, long('alpha'));
    expect(cached(first)).toBeLessThan(numShared);
    expect(cached(second)).toBeGreaterThanOrEqual((first.usage?.prompt_tokens ?? 0) - 64);
    expect(second.usage?.prompt_tokens).toBe(first.usage?.prompt_tokens);
    expect(content(second)).toBe(content(first));
  });

  test('cache_prompt false neither reads nor writes', async () => {
    await ask({ max_tokens: 2, cache_prompt: false }, long('beta'));
    expect(cached(await ask({ max_tokens: 2 }, long('beta')))).toBeLessThan(numShared);
    expect(cached(await ask({ max_tokens: 2, cache_prompt: false }, long('beta')))).toBe(0);
    expect(cached(await ask({ max_tokens: 2 }, long('beta')))).toBeGreaterThan(0);
  });

  test('progress ends with the whole prompt', async () => {
    const { chunks } = await stream({ max_tokens: 2, return_progress: true }, long('gamma'));
    const progress = chunks.flatMap((chunk) => ('prompt_progress' in chunk ? [chunk.prompt_progress] : []));
    expect(progress.length).toBeGreaterThan(0);
    const { total, processed } = progress.at(-1) as { total: number; processed: number };
    expect(processed).toBe(total);
    expect(chunks[progress.length]?.choices[0]?.delta.role).toBe('assistant');
  });
});

describe('the client understands errors', () => {
  test.each([false, true])('context length, stream: %s', async (isStreamed) => {
    const call = isStreamed ? stream({ max_tokens: 9000 }) : ask({ max_tokens: 9000 });
    const error: unknown = await call.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ status: 400, code: 'context_length_exceeded', param: 'max_tokens' });
    expect(error).toHaveProperty('requestID', expect.stringMatching(/^req-/));
  });

  test('unknown model', async () => {
    const call = server.client.chat.completions.create({ model: 'gpt-9', messages: question });
    await expect(call).rejects.toThrow(OpenAI.NotFoundError);
  });

  test('models', async () => {
    const list = await server.client.models.list();
    expect(list.data.map(({ id }) => id)).toEqual([model]);
    expect(await server.client.models.retrieve(model)).toMatchObject({ id: model, context_length: 8192 });
  });
});

test('many requests at once all get their own answer', async () => {
  const texts = Array.from({ length: 12 }, (_, i) => `What is the code of number ${i}?`);
  const alone: string[] = [];
  for (const text of texts)
    alone.push(content(await ask({ max_tokens: 10 }, [{ role: 'user', content: text }])));
  const together = await Promise.all(
    texts.map((text) => ask({ max_tokens: 10 }, [{ role: 'user', content: text }])),
  );
  expect(together.map((completion) => content(completion))).toEqual(alone);
});
