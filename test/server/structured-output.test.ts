/** `response_format` and `text.format` on a real server: enforced on every route, refused with the field's name. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseEvents, readEvents } from './support/app.ts';
import { type LiveServer, startLiveServer } from './support/live.ts';

const schema = {
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 8 },
    colours: { type: 'array', items: { enum: ['red', 'grün'] }, maxItems: 2 },
    age: { type: 'integer', minimum: 1, maximum: 99 },
  },
  required: ['name', 'colours', 'age'],
  additionalProperties: false,
};
const jsonSchema = { type: 'json_schema', json_schema: { name: 'person', schema, strict: true } };
const chat = { messages: [{ role: 'user', content: 'Who is there?' }], max_tokens: 200, temperature: 1.3 };
const CHAT = '/v1/chat/completions';

function expectPerson(text: string): void {
  const person = JSON.parse(text) as { name: string; colours: string[]; age: number };
  expect(Object.keys(person)).toEqual(['name', 'colours', 'age']);
  expect(person.name.length).toBeLessThanOrEqual(8);
  for (const colour of person.colours) expect(['red', 'grün']).toContain(colour);
  expect(person.colours.length).toBeLessThanOrEqual(2);
  expect(person.age).toBeGreaterThanOrEqual(1);
  expect(person.age).toBeLessThanOrEqual(99);
}

let server: LiveServer;
beforeAll(async () => {
  server = await startLiveServer();
});
afterAll(() => server.close());

async function ask<T>(path: string, body: object): Promise<T> {
  const response = await server.post(path, body);
  expect(response.status).toBe(200);
  return (await response.json()) as T;
}

interface Choice {
  message: { content: string };
  text: string;
  finish_reason: string;
}

describe('a schema', () => {
  it('holds for every choice of a chat', async () => {
    for (let seed = 0; seed < 5; seed++) {
      const { choices } = await ask<{ choices: Choice[] }>(CHAT, {
        ...chat,
        response_format: jsonSchema,
        n: 3,
        seed,
      });
      for (const choice of choices) {
        expect(choice.finish_reason).toBe('stop');
        expectPerson(choice.message.content);
      }
    }
  });

  it('holds for a stream, which says the same', async () => {
    const body = { ...chat, response_format: jsonSchema, seed: 7 };
    const whole = await ask<{ choices: Choice[] }>(CHAT, body);
    const events = await readEvents(await server.post(CHAT, { ...body, stream: true }));
    const chunks = parseEvents<{ choices: { delta: { content?: string } }[] }>(events);
    const text = chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta.content ?? '')).join('');
    expect(text).toBe(whole.choices[0]?.message.content);
    expectPerson(text);
    expect(events.at(-1)).toBe('[DONE]');
  });

  it('holds for completions, several prompts at once', async () => {
    const { choices } = await ask<{ choices: Choice[] }>('/v1/completions', {
      prompt: ['Once', 'There'],
      max_tokens: 200,
      temperature: 1,
      response_format: jsonSchema,
    });
    expect(choices).toHaveLength(2);
    for (const { text } of choices) expectPerson(text);
  });

  it('holds for responses, which repeat it', async () => {
    const format = { type: 'json_schema', name: 'person', schema };
    const response = await ask<{ output: { content: { text: string }[] }[]; text: object }>('/v1/responses', {
      input: 'Who is there?',
      max_output_tokens: 200,
      text: { format },
    });
    expectPerson(response.output[0]?.content[0]?.text ?? '');
    expect(response.text).toEqual({ format });
  });

  it('holds whatever strict says, and beside pruning', async () => {
    const response_format = { type: 'json_schema', json_schema: { name: 'person', schema, strict: false } };
    for (const pruning of ['none', 'balanced']) {
      const { choices } = await ask<{ choices: Choice[] }>(CHAT, { ...chat, response_format, pruning });
      expectPerson(choices[0]?.message.content ?? '');
    }
  });

  it('ends an answer that could not end otherwise', async () => {
    const body = { ...chat, response_format: jsonSchema, ignore_eos: true };
    const { choices } = await ask<{ choices: Choice[] }>(CHAT, body);
    expect(choices[0]?.finish_reason).toBe('stop');
    expectPerson(choices[0]?.message.content ?? '');
  });
});

it('any object is one', async () => {
  const body = { ...chat, temperature: 0, max_tokens: 40, response_format: { type: 'json_object' } };
  const { choices } = await ask<{ choices: Choice[] }>(CHAT, body);
  expect(choices[0]?.message.content).toMatch(/^\{/);
});

it('plain text is asked for by its name or by nothing', async () => {
  const body = { ...chat, temperature: 0, max_tokens: 20 };
  const [bare, ...others] = await Promise.all(
    [{}, { response_format: null }, { response_format: { type: 'text' } }].map(async (format) => {
      const { choices } = await ask<{ choices: Choice[] }>(CHAT, { ...body, ...format });
      return choices[0]?.message.content;
    }),
  );
  expect(others).toEqual([bare, bare]);
});

describe('is refused before anything is generated', () => {
  const withSchema = (inner: unknown) => ({ type: 'json_schema', json_schema: { name: 'x', schema: inner } });
  it.each([
    ['a schema that is none', withSchema({ type: 'no-such' }), 'response_format.json_schema.schema', null],
    [
      'a keyword that cannot be enforced',
      withSchema({ not: {} }),
      'response_format.json_schema.schema',
      'unsupported_value',
    ],
    ['what is no schema', withSchema('x'), 'response_format.json_schema.schema', null],
    [
      'no schema',
      { type: 'json_schema', json_schema: { name: 'x' } },
      'response_format.json_schema.schema',
      null,
    ],
    ['no name', { type: 'json_schema', json_schema: { schema } }, 'response_format.json_schema.name', null],
    [
      'a wrong name',
      { type: 'json_schema', json_schema: { name: 'a b', schema } },
      'response_format.json_schema.name',
      null,
    ],
    ['an unknown key', { type: 'json_object', strict: true }, 'response_format.strict', null],
    ['an unknown type', { type: 'yaml' }, 'response_format.type', null],
    ['no object', 'json_object', 'response_format', null],
  ])('%s', async (_, response_format, param, code) => {
    for (const stream of [false, true]) {
      const response = await server.post(CHAT, { ...chat, response_format, stream });
      expect(response.status).toBe(400);
      const { error } = (await response.json()) as { error: object };
      expect(error).toMatchObject({ type: 'invalid_request_error', param, code });
    }
  });

  it('under its own name in responses', async () => {
    const text = { format: { type: 'json_schema', name: 'x', schema: { not: {} } } };
    const response = await server.post('/v1/responses', { input: 'x', text });
    expect(response.status).toBe(400);
    expect(((await response.json()) as { error: object }).error).toMatchObject({
      param: 'text.format.schema',
    });
  });
});

it('leaves nothing running when clients leave', async () => {
  for (let i = 0; i < 8; i++) {
    const abort = new AbortController();
    const reply = server.post(CHAT, { ...chat, max_tokens: 400, response_format: { type: 'json_object' }, stream: true }, { signal: abort.signal }); // prettier-ignore
    const reader = (await reply).body?.getReader();
    await reader?.read();
    abort.abort();
    await reader?.cancel().catch(() => undefined);
  }
  await server.until(({ running, waiting }) => running === 0 && waiting === 0);
  const { choices } = await ask<{ choices: Choice[] }>(CHAT, { ...chat, response_format: jsonSchema });
  expectPerson(choices[0]?.message.content ?? '');
});
