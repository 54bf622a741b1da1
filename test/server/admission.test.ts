/** Who may come in: counts, limits, tickets, and how long those who may not are asked to wait. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { AppError } from '../../src/errors.ts';
import { Admission, Admissions } from '../../src/server/admission.ts';
import type { Arrival, QueueLimits, Ticket } from '../../src/server/admission.ts';

const LIMITS: QueueLimits = { maxRunning: 2, maxRequests: 3, maxTokens: null, maxPerKey: null };

const arrival = (promptTokens: readonly number[] = [10], client: string | null = null): Arrival => ({
  promptTokens,
  client,
});

/** The error of a refusal; throws if there is none. */
function refusal(admission: Admission, ...given: Parameters<typeof arrival>): AppError {
  try {
    admission.admit(arrival(...given));
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error('it was admitted');
}

const admitMany = (admission: Admission, count: number) =>
  Array.from({ length: count }, () => admission.admit(arrival()));

describe('requests', () => {
  test('as many as run and wait, and one more when one has ended', () => {
    const admission = new Admission(LIMITS);
    const tickets = admitMany(admission, 5);
    tickets[0]?.started(0);
    const error = refusal(admission);
    expect(error).toMatchObject({ errorCode: 'queue_full', status: 429, retryAfterSeconds: 1 });
    expect(error.message).toContain('5 requests at once');
    tickets[0]?.release();
    tickets[0]?.release();
    admission.admit(arrival());
    expect(refusal(admission).errorCode).toBe('queue_full');
  });

  test('each prompt counts', () => {
    const admission = new Admission(LIMITS);
    const ticket = admission.admit(arrival([1, 1, 1]));
    expect(refusal(admission, [1, 1, 1]).errorCode).toBe('queue_full');
    admission.admit(arrival([1, 1]));
    ticket.release();
    admission.admit(arrival([1, 1, 1]));
  });

  test('more prompts than ever fit are a mistake of the request', () => {
    const error = refusal(new Admission(LIMITS), [1, 1, 1, 1, 1, 1]);
    expect(error).toMatchObject({ errorCode: 'invalid_request', param: 'prompt', retryAfterSeconds: null });
  });

  test('without room to wait, as many as run', () => {
    const admission = new Admission({ ...LIMITS, maxRequests: 0 });
    admitMany(admission, 2);
    expect(refusal(admission).errorCode).toBe('queue_full');
  });
});

describe('tokens that wait', () => {
  const limits = { ...LIMITS, maxRunning: 50, maxTokens: 100 };

  test('only prompts that have not started count', () => {
    const admission = new Admission(limits);
    const first = admission.admit(arrival([60, 30]));
    const error = refusal(admission, [20]);
    expect(error.errorCode).toBe('queue_full');
    expect(error.message).toContain('100 prompt tokens');
    first.started(1);
    first.started(1);
    admission.admit(arrival([40]));
    expect(refusal(admission, [1]).errorCode).toBe('queue_full');
    first.release();
    admission.admit(arrival([60]));
  });

  test('whoever waits for nobody comes in, however long', () => {
    const admission = new Admission(limits);
    admission.admit(arrival([5000])).started(0);
    const next = admission.admit(arrival([5000]));
    expect(refusal(admission, [1]).errorCode).toBe('queue_full');
    next.release();
    admission.admit(arrival([5000]));
  });
});

describe('requests of one key', () => {
  const limits = { ...LIMITS, maxRunning: 50, maxPerKey: 2 };

  test('each key has its own, and none has none', () => {
    const admission = new Admission(limits);
    const [ticket] = [1, 2].map(() => admission.admit(arrival([1], 'a')));
    expect(refusal(admission, [1], 'a').message).toContain('one API key');
    admission.admit(arrival([1, 1], 'b'));
    admitMany(admission, 10);
    ticket?.release();
    admission.admit(arrival([1], 'a'));
  });

  test('they are counted over all models', () => {
    const config = loadConfig({ flags: { 'queue.max_per_key': '1' } });
    const admissions = new Admissions(config);
    const ticket = admissions.of('one').admit(arrival([1], 'a'));
    expect(admissions.of('one')).toBe(admissions.of('one'));
    expect(refusal(admissions.of('two'), [1], 'a').errorCode).toBe('queue_full');
    ticket.release();
    admissions.of('two').admit(arrival([1], 'a'));
  });
});

describe('the time to wait', () => {
  /** Five requests, of which two run, after one that took so long. */
  function fullAfter(serviceMs: number) {
    let nowMs = 0;
    const admission = new Admission(LIMITS, new Map(), () => nowMs);
    const before = admission.admit(arrival());
    before.started(0);
    nowMs += serviceMs;
    before.release();
    const tickets = admitMany(admission, 5);
    tickets.slice(0, 2).forEach((ticket) => {
      ticket.started(0);
    });
    return admission;
  }

  test.each([
    [0, 1],
    [900, 1],
    [8000, 4],
    [8001, 5],
    [1e9, 60],
  ])('after requests of %i ms it is %i s', (serviceMs, seconds) => {
    expect(refusal(fullAfter(serviceMs)).retryAfterSeconds).toBe(seconds);
  });

  test('grows with the room that is wanted', () => {
    expect(refusal(fullAfter(8000), [1, 1, 1]).retryAfterSeconds).toBe(12);
  });

  test('who never started teaches nothing', () => {
    let nowMs = 0;
    const admission = new Admission(LIMITS, new Map(), () => nowMs);
    const tickets = admitMany(admission, 5);
    nowMs += 1e6;
    tickets[0]?.release();
    admission.admit(arrival());
    expect(refusal(admission).retryAfterSeconds).toBe(1);
  });
});

test('limits of a model’s own go before those at the top', () => {
  const config = loadConfig({ flags: { 'queue.max_running': '9', 'queue.max_requests': '0' } });
  const models = { small: { queue: { max_running: 1 } } };
  const admissions = new Admissions({ ...config, models });
  admissions.of('small').admit(arrival());
  expect(refusal(admissions.of('small')).errorCode).toBe('queue_full');
  admitMany(admissions.of('other'), 9);
});

test('whatever happens, what is in is what was admitted and not released', () => {
  const step = fc.oneof(
    fc.record({ admits: fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 3 }) }),
    fc.record({ starts: fc.nat(), prompt: fc.nat(3) }),
    fc.record({ releases: fc.nat() }),
  );
  type Step = { admits: number[] } | { starts: number; prompt: number } | { releases: number };
  const limits = { maxRunning: 3, maxRequests: 4, maxTokens: 120, maxPerKey: null };
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const admission = new Admission(limits);
      const inside: { ticket: Ticket; waiting: Map<number, number>; count: number }[] = [];
      for (const one of steps as Step[]) {
        if ('admits' in one) {
          const numInside = inside.reduce((sum, { count }) => sum + count, 0);
          const waiting = inside.flatMap((each) => [...each.waiting.values()]);
          const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
          const fits =
            numInside + one.admits.length <= 7 &&
            (waiting.length === 0 || sum(waiting) + sum(one.admits) <= 120);
          if (!fits) {
            expect(refusal(admission, one.admits).errorCode).toBe('queue_full');
            continue;
          }
          const ticket = admission.admit(arrival(one.admits));
          inside.push({ ticket, waiting: new Map(one.admits.entries()), count: one.admits.length });
        } else if ('starts' in one) {
          const each = inside[one.starts % Math.max(1, inside.length)];
          if (each === undefined || one.prompt >= each.count) continue;
          each.ticket.started(one.prompt);
          each.waiting.delete(one.prompt);
        } else {
          const [gone] = inside.splice(one.releases % Math.max(1, inside.length), 1);
          gone?.ticket.release();
          gone?.ticket.release();
          gone?.ticket.started(0);
        }
      }
    }),
    { numRuns: 300, seed: 5 },
  );
});
