/** Chat completions through the official client. */
import type OpenAI from 'openai';
import { beforeAll, describe, expect, test } from 'vitest';
import { CHAT, target } from './support/target.ts';

type Extra = Record<string, unknown>;
type Whole = OpenAI.ChatCompletion & Extra;
const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'What is the code of red?' }];
let model: string;
let bias: number;
beforeAll(async () => {
  model = (await target.model()).id;
  const { tokens } = (await target.post('/tokenize', { prompt: ' red' })).json as { tokens: number[] };
  bias = tokens.at(-1) ?? 0;
});

const plain = { temperature: 0, max_tokens: 6, ignore_eos: true };

function ask(fields: Extra = {}): Promise<Whole> {
  const body = { model, messages, ...plain, ...fields } as OpenAI.ChatCompletionCreateParamsNonStreaming;
  return target.client.chat.completions.create(body) as unknown as Promise<Whole>;
}

async function stream(fields: Extra = {}) {
  const body = { model, messages, ...plain, ...fields, stream: true };
  const chunks: (OpenAI.ChatCompletionChunk & Extra)[] = [];
  for await (const chunk of await target.client.chat.completions.create(
    body as unknown as OpenAI.ChatCompletionCreateParamsStreaming,
  ))
    chunks.push(chunk as OpenAI.ChatCompletionChunk & Extra);
  return chunks;
}

const textOf = ({ choices }: Whole, index = 0) => choices[index]?.message.content ?? '';
const joined = (chunks: OpenAI.ChatCompletionChunk[], index = 0) =>
  chunks
    .flatMap(({ choices }) => choices)
    .filter((choice) => choice.index === index)
    .map(({ delta }) => delta.content ?? '')
    .join('');

test('whole: object, usage, timings', async () => {
  const reply = await ask();
  expect(reply).toMatchObject({
    id: expect.stringMatching(/^chatcmpl-/) as string,
    object: 'chat.completion',
    created: expect.any(Number) as number,
    model,
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: expect.any(String) as string },
        logprobs: null,
        finish_reason: 'length',
      },
    ],
    usage: { completion_tokens: 6, prompt_tokens_details: { cached_tokens: expect.any(Number) as number } },
  });
  const { usage } = reply;
  expect(usage?.total_tokens).toBe((usage?.prompt_tokens ?? 0) + 6);
  for (const name of [
    'queue_ms',
    'prefill_ms',
    'ttft_ms',
    'decode_ms',
    'prompt_tokens_per_second',
    'tokens_per_second',
  ])
    expect((reply['timings'] as Record<string, number>)[name]).toBeGreaterThanOrEqual(0);
  expect(reply).not.toHaveProperty('pruning');
});

test('streamed: the same text; the last chunk has the reason, an empty delta and the totals', async () => {
  const chunks = await stream();
  expect(joined(chunks)).toBe(textOf(await ask()));
  expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant');
  const reasons = chunks.map(({ choices }) => choices[0]?.finish_reason);
  expect(reasons.slice(0, -1).every((reason) => reason === null)).toBe(true);
  expect(chunks.at(-1)).toMatchObject({
    choices: [{ delta: {}, finish_reason: 'length' }],
    timings: { decode_ms: expect.any(Number) as number },
  });
  expect(Object.keys(chunks.at(-1)?.choices[0]?.delta ?? { x: 1 })).toEqual([]);
  expect((await target.stream(CHAT, { messages, ...plain })).hasDone).toBe(true);
});

test('include_usage: one more chunk, without choices, with usage and the totals', async () => {
  const chunks = await stream({ stream_options: { include_usage: true } });
  const { choices, usage } = chunks.at(-1) ?? {};
  expect(choices).toEqual([]);
  expect(usage).toMatchObject({ completion_tokens: 6 });
  expect(chunks.at(-1)).toHaveProperty('timings');
  for (const chunk of chunks.slice(0, -1)) {
    expect(chunk.usage).toBeNull();
    expect(chunk).not.toHaveProperty('timings');
  }
});

test('stop strings end the text before them', async () => {
  const text = textOf(await ask({ max_tokens: 24 }));
  const stop = text.slice(4, 6);
  const stopped = await ask({ max_tokens: 24, stop });
  expect(stopped.choices[0]?.finish_reason).toBe('stop');
  expect(textOf(stopped)).toBe(text.slice(0, text.indexOf(stop)));
  expect(joined(await stream({ max_tokens: 24, stop: ['never in there', stop] }))).toBe(textOf(stopped));
});

test('n, seed and temperature', async () => {
  const fields = { n: 2, seed: 7, temperature: 2, max_tokens: 8 };
  const [first, again, other] = [await ask(fields), await ask(fields), await ask({ ...fields, seed: 8 })];
  const texts = (reply: Whole) => [textOf(reply, 0), textOf(reply, 1)];
  expect(first.choices.map(({ index }) => index)).toEqual([0, 1]);
  expect(first.usage?.completion_tokens).toBe(16);
  expect(texts(again)).toEqual(texts(first));
  expect(texts(other)).not.toEqual(texts(first));
  const chunks = await stream(fields);
  expect([joined(chunks, 0), joined(chunks, 1)]).toEqual(texts(first));
});

test('log-probabilities', async () => {
  const fields = { logprobs: true, top_logprobs: 2 };
  const entries = (await ask(fields)).choices[0]?.logprobs?.content ?? [];
  expect(entries).toHaveLength(6);
  for (const { token, logprob, bytes, top_logprobs: top } of entries) {
    expect(top).toHaveLength(2);
    expect(top[0]).toEqual({ token, logprob, bytes });
    expect(logprob).toBeLessThanOrEqual(0);
  }
  const chunks = await stream(fields);
  expect(chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? [])).toEqual(entries);
  const named =
    (await ask({ ...fields, return_tokens_as_token_ids: true })).choices[0]?.logprobs?.content ?? [];
  for (const { token } of named) expect(token).toMatch(/^token_id:\d+$/);
  expect(named.map(({ logprob }) => logprob)).toEqual(entries.map(({ logprob }) => logprob));
  // Of the model's own distribution: a bias changes what is chosen, not what is told of it.
  const biased = await ask({ ...fields, max_tokens: 1, logit_bias: { [bias]: 100 } });
  expect(biased.choices[0]?.logprobs?.content?.[0]?.top_logprobs[0]).toEqual(entries[0]?.top_logprobs[0]);
});

describe('what ends a choice', () => {
  test('a bias forces a token, a stop token ends there, min_tokens comes first', async () => {
    const logit_bias = { [bias]: 100 };
    const forced = await ask({ logit_bias, logprobs: true, return_tokens_as_token_ids: true });
    const tokens = forced.choices[0]?.logprobs?.content?.map(({ token }) => token);
    expect(tokens).toEqual(Array(6).fill(`token_id:${bias}`));
    const stopped = await ask({ logit_bias, stop_token_ids: [bias] });
    expect(stopped.choices[0]?.finish_reason).toBe('stop');
    expect(stopped.usage?.completion_tokens).toBeLessThanOrEqual(1);
    const later = await ask({ logit_bias, stop_token_ids: [bias], min_tokens: 3 });
    expect(later.usage?.completion_tokens).toBeGreaterThanOrEqual(3);
    expect(later.choices[0]?.finish_reason).toBe('stop');
  });

  test('the model’s own end, which ignore_eos ignores', async () => {
    const { choices, usage } = await ask({ ignore_eos: false, max_tokens: 400 });
    const numTokens = usage?.completion_tokens ?? 0;
    if (choices[0]?.finish_reason === 'stop')
      expect((await ask({ max_tokens: numTokens + 2 })).usage?.completion_tokens).toBe(numTokens + 2);
    expect(choices[0]?.message.content).not.toContain('<|');
  });

  test('max_completion_tokens is max_tokens', async () => {
    expect((await ask({ max_tokens: undefined, max_completion_tokens: 3 })).usage?.completion_tokens).toBe(3);
  });
});

test('return_progress: before the first content', async () => {
  const content = 'The code of red is nine. '.repeat(100);
  const { objects } = await target.stream(CHAT, {
    messages: [{ role: 'user', content }],
    max_tokens: 2,
    return_progress: true,
    cache_prompt: false,
  });
  const isProgress = (chunk: object) => 'prompt_progress' in chunk;
  const last = objects.findLastIndex(isProgress);
  expect(last).toBeGreaterThanOrEqual(0);
  const hasContent = (chunk: object) => /"content":"[^"]/.test(JSON.stringify(chunk));
  expect(objects.slice(0, last).some(hasContent)).toBe(false);
  const {
    total,
    processed,
    cache,
    time_ms: timeMs,
  } = objects[last]?.['prompt_progress'] as Record<string, number>;
  expect(processed).toBe(total);
  expect(cache).toBe(0);
  expect(timeMs).toBeGreaterThanOrEqual(0);
});

test('cache_prompt: reuse up to 64 tokens short of the shared prefix; off, none', async () => {
  const content = `Remember ${Math.random()}. ` + 'The code of red is nine. '.repeat(60);
  const said: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content }];
  const cached = async (fields: Extra) =>
    (await ask({ messages: said, max_tokens: 1, ...fields })).usage?.prompt_tokens_details?.cached_tokens;
  expect(await cached({ cache_prompt: false })).toBe(0);
  expect(await cached({})).toBeLessThan(100);
  const total = (await ask({ messages: said, max_tokens: 1 })).usage?.prompt_tokens ?? 0;
  expect(await cached({})).toBeGreaterThanOrEqual(total - 64);
  expect(await cached({ cache_prompt: false })).toBe(0);
});

test('every sampling field changes nothing but the sampling', async () => {
  const fields = {
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    repetition_penalty: 1.1,
    presence_penalty: 0.5,
    frequency_penalty: 0.5,
    temperature: 0.7,
    priority: -1,
    max_time_ms: 60_000,
  };
  expect((await ask(fields)).usage?.completion_tokens).toBe(6);
});
