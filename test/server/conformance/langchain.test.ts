/** LangChain's OpenAI provider, unchanged but for its base URL. */
import { ChatOpenAI } from '@langchain/openai';
import { beforeAll, expect, test } from 'vitest';
import { target } from './support/target.ts';

let model: string;
beforeAll(async () => {
  model = (await target.model()).id;
});

const provider = (fields: object = {}) =>
  new ChatOpenAI({
    model,
    apiKey: target.key,
    temperature: 0,
    maxTokens: 8,
    maxRetries: 0,
    configuration: { baseURL: `${target.url}/v1` },
    ...fields,
  });
/** The provider's own type of it is not precise. */
const usageOf = (message: object) =>
  (message as { usage_metadata?: { output_tokens: number } }).usage_metadata;
const question = 'What is the code of red?';

test('invoke', async () => {
  const message = await provider().invoke(question);
  expect(message.text).not.toBe('');
  expect(message.usage_metadata).toMatchObject({
    input_tokens: expect.any(Number) as number,
    output_tokens: expect.any(Number) as number,
  });
  expect(message.response_metadata['finish_reason']).toMatch(/^(stop|length)$/);
});

test('stream, with usage', async () => {
  const whole = await provider().invoke(question);
  let text = '';
  let numOutput = 0;
  for await (const chunk of await provider({ streamUsage: true }).stream(question)) {
    text += chunk.text;
    numOutput += usageOf(chunk)?.output_tokens ?? 0;
  }
  expect(text).toBe(whole.text);
  expect(numOutput).toBe(usageOf(whole)?.output_tokens);
});

test('batch, and the conversation', async () => {
  const replies = await provider().batch([
    question,
    [
      ['system', 'Be brief.'],
      ['human', question],
    ],
  ]);
  expect(replies.every(({ text }) => text !== '')).toBe(true);
});

test('over the Responses API', async () => {
  const message = await provider({ useResponsesApi: true }).invoke(question);
  expect(message.text).not.toBe('');
});

test('our fields go through modelKwargs', async () => {
  const message = await provider({ modelKwargs: { pruning: 'none' }, __includeRawResponse: true }).invoke(
    question,
  );
  expect(message.additional_kwargs['__raw_response']).toMatchObject({ pruning: { preset: 'none' } });
});

test('a mistake is an error with the server’s message', async () => {
  await expect(provider({ modelKwargs: { pruning: 'no-such' } }).invoke(question)).rejects.toThrow(
    /pruning: expected/,
  );
});
