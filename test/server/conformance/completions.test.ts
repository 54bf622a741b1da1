/** Legacy completions through the official client. */
import type OpenAI from 'openai';
import { beforeAll, expect, test } from 'vitest';
import { COMPLETIONS, target } from './support/target.ts';

type Whole = OpenAI.Completion;
const prompt = 'The code of red is nine. The code of';
let model: string;
let ids: number[];
beforeAll(async () => {
  model = (await target.model()).id;
  ids = ((await target.post('/tokenize', { prompt })).json as { tokens: number[] }).tokens;
});

const plain = { temperature: 0, max_tokens: 5, ignore_eos: true };

const ask = (fields: Record<string, unknown> = {}): Promise<Whole> =>
  target.client.completions.create({
    model,
    prompt,
    ...plain,
    ...fields,
  } as OpenAI.CompletionCreateParamsNonStreaming);

const texts = ({ choices }: Whole) => choices.map(({ text }) => text);

test('the prompt in its four forms', async () => {
  const reply = await ask();
  expect(reply).toMatchObject({
    id: expect.stringMatching(/^cmpl-/) as string,
    object: 'text_completion',
    model,
    choices: [{ index: 0, logprobs: null, finish_reason: 'length' }],
    usage: { prompt_tokens: ids.length, completion_tokens: 5, total_tokens: ids.length + 5 },
  });
  const [text = ''] = texts(reply);
  expect(texts(await ask({ prompt: ids }))).toEqual([text]);
  for (const list of [
    [prompt, prompt],
    [ids, ids],
  ]) {
    const several = await ask({ prompt: list, n: 2 });
    expect(texts(several)).toEqual([text, text, text, text]);
    expect(several.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    expect(several.usage).toMatchObject({ prompt_tokens: 2 * ids.length, completion_tokens: 20 });
  }
  const many = await ask({ prompt: Array(20).fill('a'), max_tokens: 1 });
  expect(many.choices).toHaveLength(20);
});

test('streamed: the same text, [DONE] at the end', async () => {
  const { objects, hasDone } = await target.stream(COMPLETIONS, {
    prompt,
    ...plain,
    stream_options: { include_usage: true },
  });
  const chunks = objects as unknown as Whole[];
  expect(hasDone).toBe(true);
  expect(chunks.flatMap(texts).join('')).toBe(texts(await ask())[0]);
  expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 5 } });
  expect(chunks.at(-2)).toMatchObject({ choices: [{ text: '', finish_reason: 'length' }] });
});

test('16 tokens unless it says so', async () => {
  expect((await ask({ max_tokens: undefined })).usage?.completion_tokens).toBe(16);
});

test('echo and log-probabilities score a text: max_tokens 0', async () => {
  const { choices, usage } = await ask({ echo: true, max_tokens: 0, logprobs: 2 });
  const { text, logprobs } = choices[0] ?? {};
  expect(text).toBe(prompt);
  expect(usage).toMatchObject({ prompt_tokens: ids.length, completion_tokens: 0 });
  expect(logprobs?.tokens).toHaveLength(ids.length);
  const { token_logprobs: own = [], top_logprobs: top = [], text_offset: offsets = [] } = logprobs ?? {};
  expect(own[0]).toBeNull();
  expect(own.slice(1).every((value) => value <= 0)).toBe(true);
  expect(top).toHaveLength(ids.length);
  expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
  const longer = await ask({ echo: true, logprobs: 0, max_tokens: 2 });
  expect(longer.choices[0]?.text.startsWith(prompt)).toBe(true);
  expect(longer.choices[0]?.logprobs?.tokens).toHaveLength(ids.length + 2);
  expect(longer.choices[0]?.logprobs?.token_logprobs?.slice(0, ids.length)).toEqual(own);
});

test('log-probabilities in the legacy shape', async () => {
  const { logprobs, text } = (await ask({ logprobs: 5 })).choices[0] ?? {};
  const { tokens = [], top_logprobs: top = [], text_offset: offsets } = logprobs ?? {};
  expect(tokens).toHaveLength(5);
  expect(top.every((entries) => Object.keys(entries).length > 0)).toBe(true);
  expect(offsets?.[0]).toBe(0);
  expect(text).toContain(tokens[0]);
  const named = (await ask({ logprobs: 1, return_tokens_as_token_ids: true })).choices[0]?.logprobs?.tokens;
  for (const name of named ?? ['']) expect(name).toMatch(/^token_id:\d+$/);
});
