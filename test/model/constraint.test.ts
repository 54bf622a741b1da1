/** Constrained requests on real models: texts that satisfy their schema, neighbours undisturbed, nothing left behind. */
import { z } from 'zod';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import { schemaGrammar } from '../../src/text/json-schema/schema-grammar.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { grammarVocabulary } from '../../src/text/vocabulary.ts';
import { RECALL, EngineRun, kvBytes, loadModel, makeIds, makeRequest, STORIES, type Recording, type RequestOptions } from './support/engine.ts'; // prettier-ignore

const SCHEMA = {
  $defs: { point: { type: 'object', properties: { x: { type: 'number', minimum: -1, maximum: 1 }, tag: { enum: ['é', 'ab', 'a', null] } }, required: ['x', 'tag'], additionalProperties: false } }, // prettier-ignore
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 6 },
    points: { type: 'array', items: { $ref: '#/$defs/point' }, minItems: 1, maxItems: 2 },
    either: { anyOf: [{ type: 'boolean' }, { type: 'string', format: 'date' }] },
    age: { type: 'integer', minimum: 18, maximum: 120 },
  },
  required: ['name', 'points', 'either'],
  additionalProperties: false,
};

interface Subject {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  readonly vocabulary: ReturnType<typeof grammarVocabulary>;
}

async function subject(dir: string): Promise<Subject> {
  const tokenizer = Tokenizer.load(dir);
  // Their own is too short for what is asked of them here.
  const model = await loadModel(dir, { max_position_embeddings: 1024 });
  return { model, tokenizer, vocabulary: grammarVocabulary(tokenizer, new Set()) };
}

function runOn(
  { model, vocabulary }: Subject,
  options: ConstructorParameters<typeof EngineRun>[1] = {},
): EngineRun {
  const run = new EngineRun(model, options);
  run.engine.setVocabulary(vocabulary);
  return run;
}

function constraintOf(schema: unknown): string {
  const grammar = schemaGrammar(schema, { param: 'schema', vocabSize: 512 });
  return JSON.stringify({ type: 'structural_tag', format: { type: 'grammar', grammar } });
}

const EOS = 2;

function request(options: RequestOptions = {}, schema: unknown = SCHEMA) {
  return makeRequest(makeIds(6, 100, 1), {
    constraint: constraintOf(schema),
    maxTokens: 400,
    stopTokenIds: [EOS],
    ...options,
  });
}

function textOf({ tokenizer }: Subject, recording: Recording, choice = 0): string {
  return Buffer.concat(recording.tokens(choice).map((id) => tokenizer.tokenBytes(id))).toString();
}

function expectValid(of: Subject, recording: Recording, choice = 0, schema: unknown = SCHEMA): void {
  const text = textOf(of, recording, choice);
  expect(recording.finish(choice)?.reason, text).toBe('stop');
  expect(text).not.toContain('\ufffd');
  z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]).parse(JSON.parse(text));
}

describe.each([
  ['the demo model', RECALL],
  ['stories260K', STORIES],
])('%s', (_, dir) => {
  let own: Subject;
  beforeAll(async () => {
    own = await subject(dir);
  });

  it('ends with a value of the schema, greedy and at any temperature', async () => {
    const run = runOn(own);
    const recordings = [run.submit(request())];
    for (let seed = 0; seed < 30; seed++)
      recordings.push(run.submit(request({ sampling: { temperature: 1.5, seed } })));
    await run.untilIdle();
    for (const recording of recordings) expectValid(own, recording);
    expect(new Set(recordings.map((recording) => textOf(own, recording))).size).toBeGreaterThan(20);
    expect(run.engine.numMatchers).toBe(0);
  });

  it('has a state for each choice, through preemption and with penalties, bias and log-probabilities', async () => {
    const sampling = { temperature: 1.2, seed: 3, frequencyPenalty: 0.5, repetitionPenalty: 1.1, logprobs: 2, logitBias: [[5, 3]] as const }; // prettier-ignore
    const alone = runOn(own);
    const expected = alone.submit(request({ numChoices: 3, maxTokens: 200, sampling }));
    await alone.untilIdle();
    const crowded = runOn(own, {
      kvMaxBytes: kvBytes(own.model, 220),
      prefixCacheMaxBytes: 0,
      maxRunning: 8,
    });
    const ours = crowded.submit(request({ numChoices: 3, maxTokens: 200, sampling }));
    for (let turn = 0; turn < 5; turn++) await crowded.turn();
    for (let i = 0; i < 5; i++)
      crowded.submit(request({ maxTokens: 150, priority: -1, sampling: { temperature: 1, seed: i } }));
    await crowded.untilIdle();
    for (let choice = 0; choice < 3; choice++) {
      expectValid(own, expected, choice);
      expect(ours.tokens(choice)).toEqual(expected.tokens(choice));
    }
    // The other model's caches grow in steps larger than its texts.
    if (dir === RECALL) expect(crowded.engine.stats().preemptions).toBeGreaterThan(0);
    expect(crowded.engine.numMatchers).toBe(0);
  });

  it('leaves unconstrained neighbours alone', async () => {
    const free = (seed: number) =>
      makeRequest(makeIds(9, 100, seed), { maxTokens: 40, sampling: { temperature: 0.8, seed } });
    const alone = await Promise.all(
      [1, 2].map(async (seed) => {
        const run = runOn(own);
        const recording = run.submit(free(seed));
        await run.untilIdle();
        return recording.tokens();
      }),
    );
    const run = runOn(own);
    const mixed = [run.submit(free(1)), run.submit(request()), run.submit(free(2))];
    await run.untilIdle();
    expect(mixed[0]!.tokens()).toEqual(alone[0]);
    expect(mixed[2]!.tokens()).toEqual(alone[1]);
    expectValid(own, mixed[1]!);
  });
});

describe('one model', () => {
  let own: Subject;
  beforeAll(async () => {
    own = await subject(STORIES);
  });

  it('changes nothing where the grammar allows everything', async () => {
    const any = JSON.stringify({ type: 'structural_tag', format: { type: 'any_text' } });
    // What never belongs to a text: control tokens, and bytes that may break a character.
    const kept = (id: number) =>
      !own.tokenizer.specialIds.has(id) && own.tokenizer.tokenText(id).match(/^[\x20-\x7e]+$/);
    const logitBias = Array.from(
      { length: own.model.info.vocabSize },
      (_, id) => [id, kept(id) ? 0 : -100] as const,
    );
    for (const temperature of [0, 1]) {
      const options = { maxTokens: 60, stopTokenIds: [EOS], sampling: { temperature, seed: 5, logitBias } };
      const run = runOn(own);
      const free = run.submit(makeRequest(makeIds(8, 200, 2), options));
      const bound = run.submit(makeRequest(makeIds(8, 200, 2), { ...options, constraint: any }));
      await run.untilIdle();
      expect(bound.tokens()).toEqual(free.tokens());
      expect(bound.finish()).toMatchObject({ reason: free.finish()?.reason });
    }
  });

  it('reports log-probabilities of its own distribution', async () => {
    const run = runOn(own);
    const free = run.submit(makeRequest(makeIds(6, 100, 1), { maxTokens: 1, sampling: { logprobs: 3 } }));
    const bound = run.submit(request({ sampling: { logprobs: 3 } }));
    await run.untilIdle();
    const [first] = bound.all('token');
    expect(first?.logprobs?.top).toEqual(free.all('token')[0]?.logprobs?.top);
    expect(own.tokenizer.tokenText(first?.tokenId ?? -1)).toContain('{');
    expect(first?.logprobs?.logprob).toBeLessThan(-1);
  });

  it.each([
    ['without ids that could end it', { stopTokenIds: [] }],
    ['though more tokens are wanted', { minTokens: 390 }],
  ])('ends a complete text %s', async (_, options) => {
    const run = runOn(own);
    const recording = run.submit(request(options));
    await run.untilIdle();
    expectValid(own, recording);
    expect(recording.finish()?.stopTokenId).toBeNull();
  });

  it('never ends a text with an id that is a stop id before it is complete', async () => {
    const run = runOn(own);
    const recording = run.submit(request({ sampling: { logitBias: [[EOS, 100]] } }));
    await run.untilIdle();
    expectValid(own, recording);
  });

  it('fails alone when nothing may follow that could be sampled', async () => {
    const run = runOn(own);
    const digits = Array.from({ length: own.tokenizer.vocabSize }, (_, id) => id).filter((id) => own.tokenizer.tokenText(id).includes('{')); // prettier-ignore
    const stuck = run.submit(request({ stopTokenIds: [EOS, ...digits] }));
    const neighbour = run.submit(request());
    await run.untilIdle();
    expect(stuck.events.at(-1)).toMatchObject({ type: 'error', code: 'invalid_request' });
    expectValid(own, neighbour);
    expect(run.engine.numMatchers).toBe(0);
  });

  it('refuses what cannot be compiled, and goes on', async () => {
    const run = runOn(own);
    const before = run.submit(request());
    await run.turn();
    for (const constraint of [
      '{',
      '{"type":"structural_tag"}',
      JSON.stringify({ type: 'structural_tag', format: { type: 'grammar', grammar: 'root ::= (' } }),
    ]) {
      // prettier-ignore
      const broken = run.submit(request({ constraint }));
      await run.turn();
      expect(broken.events.at(-1)).toMatchObject({ type: 'error', code: 'unsupported_value' });
    }
    const after = run.submit(request());
    await run.untilIdle();
    expectValid(own, before);
    expectValid(own, after);
    expect(after.tokens()).toEqual(before.tokens());
    expect(run.engine.numMatchers).toBe(0);
  });

  it('frees every state, however requests end, and keeps few grammars', { timeout: 120_000 }, async () => {
    const run = runOn(own, { maxRunning: 4 });
    for (let i = 0; i < 120; i++) {
      const schema = {
        type: 'object',
        properties: { [`key${i}`]: { type: 'string' } },
        required: [`key${i}`],
      };
      const recording = run.submit(
        request({ maxTokens: 30, numChoices: 1 + (i % 3), sampling: { temperature: 1, seed: i } }, schema),
      );
      if (i % 2 === 0) {
        for (let turn = 0; turn < i % 5; turn++) await run.turn();
        run.cancel(recording);
      } else if (i % 5 === 0) {
        await run.turn();
        run.engine.stopChoice(recording.request.id, 0);
      }
    }
    await run.turn();
    expect(run.engine.numMatchers).toBeGreaterThan(0);
    await run.untilIdle();
    expect(run.engine.numMatchers).toBe(0);
  });
});
