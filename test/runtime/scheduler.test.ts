/** Who runs: order, victims and joining, against a plain list. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { GenerationRequest } from '../../src/runtime/protocol.ts';
import { Scheduler } from '../../src/runtime/scheduler.ts';
import { LiveRequest, Sequence } from '../../src/runtime/sequence.ts';

const sampler = {
  sample: () => ({ tokenId: 0, logprobs: null }),
  accept: () => undefined,
  free: () => undefined,
};

/** Only what a scheduler may look at is real. */
function makeSequences(priority: number, order: number, numChoices = 1): Sequence[] {
  const input = { id: `${order}`, promptIds: new Int32Array(1), priority } as GenerationRequest;
  const request = new LiveRequest(input, null, order, () => undefined);
  return Array.from({ length: numChoices }, (_, choice) => new Sequence(request, choice, sampler, 1));
}

const name = ({ request, choice }: Sequence): string =>
  `${request.input.priority}.${request.order}.${choice}`;

/** Starts everything that fits and says what was started, in order. */
function startAll(scheduler: Scheduler): string[] {
  const started: string[] = [];
  scheduler.start((sequence) => {
    started.push(name(sequence));
    return true;
  });
  return started;
}

describe('order', () => {
  test('priority, then arrival, then choice', () => {
    const scheduler = new Scheduler(10);
    const [late] = makeSequences(0, 3);
    const [idle] = makeSequences(5, 0);
    const [urgent] = makeSequences(-1, 9);
    const [first, second, third] = makeSequences(0, 1, 3);
    for (const sequence of [third, late, idle, second, urgent, first]) scheduler.enqueue(sequence!);
    expect(startAll(scheduler)).toEqual(['-1.9.0', '0.1.0', '0.1.1', '0.1.2', '0.3.0', '5.0.0']);
  });

  test('nobody overtakes a sequence that is refused, however small', () => {
    const scheduler = new Scheduler(10);
    for (const order of [0, 1, 2]) scheduler.enqueue(makeSequences(0, order)[0]!);
    const asked: string[] = [];
    scheduler.start((sequence) => {
      asked.push(name(sequence));
      return sequence.request.order !== 1;
    });
    expect(asked).toEqual(['0.0.0', '0.1.0']);
    expect(scheduler.running.map(name)).toEqual(['0.0.0']);
    expect(scheduler.waiting.map(name)).toEqual(['0.1.0', '0.2.0']);
  });

  test('a preempted sequence goes before those that arrived after it', () => {
    const scheduler = new Scheduler(10);
    const [old] = makeSequences(0, 0);
    scheduler.enqueue(old!);
    startAll(scheduler);
    scheduler.enqueue(makeSequences(0, 1)[0]!);
    scheduler.remove(old!);
    scheduler.enqueue(old!);
    expect(scheduler.waiting.map(name)).toEqual(['0.0.0', '0.1.0']);
  });
});

describe('running', () => {
  test('at most so many; join says whether there was room', () => {
    const scheduler = new Scheduler(2);
    const [a, b, c] = makeSequences(0, 0, 3);
    scheduler.enqueue(a!);
    expect(startAll(scheduler)).toEqual(['0.0.0']);
    expect(scheduler.join(b!)).toBe(true);
    expect(scheduler.join(c!)).toBe(false);
    scheduler.enqueue(c!);
    expect(startAll(scheduler)).toEqual([]);
    scheduler.remove(a!);
    expect(startAll(scheduler)).toEqual(['0.0.2']);
    expect(scheduler.running.map(name)).toEqual(['0.0.1', '0.0.2']);
  });

  test('the victim is the one that would be started last; none when nothing runs', () => {
    const scheduler = new Scheduler(10);
    expect(scheduler.victim()).toBeUndefined();
    const sequences = [
      makeSequences(0, 4),
      makeSequences(1, 2, 2),
      makeSequences(1, 1),
      makeSequences(-3, 9),
    ];
    for (const sequence of sequences.flat()) scheduler.join(sequence);
    const victims: string[] = [];
    for (let victim = scheduler.victim(); victim !== undefined; victim = scheduler.victim()) {
      victims.push(name(victim));
      scheduler.remove(victim);
    }
    expect(victims).toEqual(['1.2.1', '1.2.0', '1.1.0', '0.4.0', '-3.9.0']);
  });

  test('removing what is in neither list changes nothing', () => {
    const scheduler = new Scheduler(1);
    const [a, b] = makeSequences(0, 0, 2);
    scheduler.enqueue(a!);
    scheduler.remove(b!);
    expect(scheduler.waiting).toEqual([a]);
  });
});

describe('paused requests', () => {
  test('what of them waits is parked, and finds its place again', () => {
    const scheduler = new Scheduler(1);
    const [a, b] = makeSequences(0, 0, 2);
    const [c] = makeSequences(0, 1);
    for (const sequence of [a, b, c]) scheduler.enqueue(sequence!);
    startAll(scheduler);
    a!.request.isPaused = true;
    scheduler.requeue(a!.request);
    expect(scheduler.running).toEqual([a]);
    expect(scheduler.parked).toEqual([b]);
    expect(scheduler.waiting).toEqual([c]);
    a!.request.isPaused = false;
    scheduler.requeue(a!.request);
    expect(scheduler.parked).toEqual([]);
    expect(scheduler.waiting).toEqual([b, c]);
  });

  test('the one that would be started last makes way, though others would be victims before it', () => {
    const scheduler = new Scheduler(3);
    const [first, second] = makeSequences(-1, 0, 2);
    const [other] = makeSequences(7, 1);
    for (const sequence of [first, second, other]) scheduler.join(sequence!);
    expect(scheduler.pausedVictim()).toBeUndefined();
    first!.request.isPaused = true;
    expect(scheduler.pausedVictim()).toBe(second);
    expect(scheduler.victim()).toBe(other);
  });

  test('it is crowded when somebody has to wait for a place', () => {
    const scheduler = new Scheduler(2);
    const sequences = makeSequences(0, 0, 3);
    expect(scheduler.isCrowded).toBe(false);
    sequences.slice(0, 2).forEach((sequence) => scheduler.join(sequence));
    expect(scheduler.isCrowded).toBe(false);
    scheduler.enqueue(sequences[2]!);
    expect(scheduler.isCrowded).toBe(true);
    scheduler.remove(sequences[0]!);
    expect(scheduler.isCrowded).toBe(false);
  });
});

test('agrees with a sorted list under any mixture of operations', () => {
  const compare = (a: Sequence, b: Sequence): number =>
    a.request.input.priority - b.request.input.priority ||
    a.request.order - b.request.order ||
    a.choice - b.choice;
  const operation = fc.oneof(
    fc.record({ kind: fc.constant('arrive' as const), priority: fc.integer({ min: -2, max: 2 }) }),
    fc.record({ kind: fc.constant('start' as const), memory: fc.nat(3) }),
    fc.record({ kind: fc.constant('preempt' as const) }),
    fc.record({ kind: fc.constant('leave' as const), pick: fc.nat() }),
  );
  fc.assert(
    fc.property(
      fc.array(operation, { maxLength: 60 }),
      fc.integer({ min: 1, max: 4 }),
      (operations, maxRunning) => {
        const scheduler = new Scheduler(maxRunning);
        let waiting: Sequence[] = [];
        let running: Sequence[] = [];
        let numArrived = 0;
        for (const op of operations) {
          if (op.kind === 'arrive') {
            const [sequence] = makeSequences(op.priority, numArrived++);
            scheduler.enqueue(sequence!);
            waiting.push(sequence!);
          } else if (op.kind === 'start') {
            let left = op.memory;
            scheduler.start(() => left-- > 0);
            const count = Math.min(op.memory, maxRunning - running.length);
            waiting.sort(compare);
            running.push(...waiting.splice(0, count));
          } else if (op.kind === 'preempt') {
            const victim = scheduler.victim();
            expect(victim).toBe([...running].sort(compare).at(-1));
            if (victim === undefined) continue;
            scheduler.remove(victim);
            scheduler.enqueue(victim);
            running = running.filter((s) => s !== victim);
            waiting.push(victim);
          } else {
            const all = [...waiting, ...running];
            const gone = all[op.pick % Math.max(1, all.length)];
            if (gone === undefined) continue;
            scheduler.remove(gone);
            waiting = waiting.filter((s) => s !== gone);
            running = running.filter((s) => s !== gone);
          }
          expect(scheduler.waiting).toEqual([...waiting].sort(compare));
          expect(new Set(scheduler.running)).toEqual(new Set(running));
          expect(scheduler.running.length).toBeLessThanOrEqual(maxRunning);
        }
      },
    ),
    { numRuns: 200, seed: 7 },
  );
});
