/** Phases of a request from what is known of it, also where it ended early. */
import { describe, expect, test } from 'vitest';
import { GREEDY } from '../../src/runtime/protocol.ts';
import type { Timings } from '../../src/runtime/protocol.ts';
import type { GenerationJob } from '../../src/server/generation-job.ts';
import { RequestRecord } from '../../src/server/request-record.ts';
import type { Milestones } from '../../src/server/request-record.ts';
import { requestTrace } from '../../src/server/request-trace.ts';

const origin = { requestId: 'req-1', path: '/v1/completions', method: 'POST', status: () => 200 };

function job(numPrompts: number, changes: Partial<GenerationJob> = {}): GenerationJob {
  return {
    id: 'cmpl-1',
    prompts: Array.from({ length: numPrompts }, (_, i) => ({ ids: Int32Array.of(1), maxTokens: 5 + i })),
    numChoices: 1,
    sampling: GREEDY,
    minTokens: 0,
    stop: [],
    stopTokenIds: [],
    promptLogprobs: null,
    constraint: null,
    priority: 0,
    cachePrompt: true,
    reportProgress: false,
    maxTimeMs: null,
    pruning: null,
    ...changes,
  } as GenerationJob;
}

/** Times after the request's arrival, as [name, start, end]. */
function phases(milestones: Milestones, endMs: number, timings?: Timings, numPrompts = 1) {
  const record = new RequestRecord();
  const at = record.startedMs;
  for (const name of ['submittedMs', 'prefillMs', 'firstTokenMs', 'endMs'] as const) {
    const ms = milestones[name];
    if (ms !== undefined) record.milestones[name] = at + ms;
  }
  record.job = job(numPrompts);
  if (timings !== undefined) record.timings = timings;
  const trace = requestTrace(record, origin, at + endMs);
  return trace.phases.map(({ name, startMs, endMs: end }) => [name, round(startMs - at), round(end - at)]);
}

const round = (ms: number) => Math.round(ms * 1000) / 1000;

describe('phases', () => {
  test('of a request that ran: the engine measured them, ending a turn before this thread heard', () => {
    const heard = { submittedMs: 2, prefillMs: 50, firstTokenMs: 50, endMs: 92 };
    const timings = { queueMs: 7, prefillMs: 40, ttftMs: 47, decodeMs: 41 };
    expect(phases(heard, 95, timings)).toEqual([
      ['queue', 2, 10],
      ['prefill', 10, 50],
      ['decode', 50, 91],
    ]);
  });

  test('of a request without a token', () => {
    const timings = { queueMs: 1, prefillMs: 40, ttftMs: 41, decodeMs: 0 };
    expect(phases({ submittedMs: 2, prefillMs: 44, endMs: 45 }, 50, timings)).toEqual([
      ['queue', 2, 5],
      ['prefill', 5, 45],
      ['decode', 45, 45],
    ]);
  });

  test('none is outside of the request, whatever clocks and turns do', () => {
    const timings = { queueMs: 1, prefillMs: 60, ttftMs: 61, decodeMs: 60 };
    expect(phases({ submittedMs: 2, prefillMs: 44, firstTokenMs: 50, endMs: 60 }, 65, timings)).toEqual([
      ['queue', 2, 2],
      ['prefill', 2, 50],
      ['decode', 50, 65],
    ]);
  });

  test('of several prompts: until the first prefill, the first token, the end; sums are no such times', () => {
    const timings = { queueMs: 300, prefillMs: 400, ttftMs: 30, decodeMs: 500 };
    const heard = { submittedMs: 2, prefillMs: 20, firstTokenMs: 32, endMs: 90 };
    expect(phases(heard, 95, timings, 2)).toEqual([
      ['queue', 2, 20],
      ['prefill', 20, 32],
      ['decode', 32, 90],
    ]);
  });

  test.each([
    [{}, []],
    [{ submittedMs: 2 }, [['queue', 2, 60]]],
    [
      { submittedMs: 2, prefillMs: 20 },
      [
        ['queue', 2, 20],
        ['prefill', 20, 60],
      ],
    ],
    [
      { submittedMs: 2, prefillMs: 20, firstTokenMs: 30 },
      [
        ['queue', 2, 20],
        ['prefill', 20, 30],
        ['decode', 30, 60],
      ],
    ],
  ])('of a request that ended early: those reached, %j', (milestones, expected) => {
    expect(phases(milestones, 60)).toEqual(expected);
  });
});

describe('attributes', () => {
  const attributesOf = (change: (record: RequestRecord) => void) => {
    const record = new RequestRecord();
    change(record);
    return requestTrace(record, origin, record.startedMs + 1);
  };

  test('settings in force, without those that are off', () => {
    const { attributes } = attributesOf((record) => {
      record.job = job(1);
    });
    expect(attributes).toMatchObject({ 'gen_ai.request.temperature': 0, 'gen_ai.request.top_p': 1 });
    const off = ['top_k', 'seed', 'frequency_penalty', 'presence_penalty', 'choice.count'];
    for (const name of off) expect(attributes).not.toHaveProperty([`gen_ai.request.${name}`]);
    const sampling = { ...GREEDY, topK: 3, seed: 0, frequencyPenalty: 0.5, presencePenalty: -1 };
    const all = attributesOf((record) => {
      record.job = job(2, { sampling, numChoices: 2, stop: ['a', 'b'] });
    });
    expect(all.attributes).toMatchObject({
      'gen_ai.request.max_tokens': 6,
      'gen_ai.request.top_k': 3,
      'gen_ai.request.seed': 0,
      'gen_ai.request.frequency_penalty': 0.5,
      'gen_ai.request.presence_penalty': -1,
      'gen_ai.request.choice.count': 2,
      'coppice.request.stop_sequence_count': 2,
      'coppice.request.prompt_count': 2,
    });
  });

  test.each([
    ['invalid_request_error', false],
    ['queue_full', false],
    ['timeout', true],
    ['server_error', true],
  ])('error %s: the span has failed: %s', (error, hasFailed) => {
    const trace = attributesOf((record) => {
      record.error = error;
    });
    expect(trace).toMatchObject({ hasFailed, attributes: { 'error.type': error } });
  });

  test('a client that left after all was said did not cancel', () => {
    const leave = (record: RequestRecord) => {
      record.wasCancelled = true;
    };
    expect(attributesOf(leave).attributes).toMatchObject({ 'coppice.cancelled': true });
    const late = attributesOf((record) => {
      leave(record);
      record.usage = { promptTokens: 1, cachedTokens: 0, completionTokens: 1 };
    });
    expect(late.attributes).not.toHaveProperty(['coppice.cancelled']);
  });
});
