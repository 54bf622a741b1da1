/** The memory for responses: bounded, per client, and with turns that conversations share. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ConnectionMemory, ResponseStore } from '../../../src/server/responses/store.ts';
import type { StoredResponse, Turn } from '../../../src/server/responses/store.ts';

function turn(text: string, id = `msg_${text}`): Turn {
  const part = { type: 'output_text' as const, annotations: [], logprobs: [], text };
  return {
    input: [{ role: 'user', content: text }],
    output: [{ id, type: 'message', status: 'completed', role: 'assistant', content: [part] }],
  };
}

function response(id: string, turns: readonly Turn[], client: string | null = null): StoredResponse {
  return { id, client, turns };
}

describe('a store', () => {
  test('knows what was stored, for the client that stored it', () => {
    const store = new ResponseStore(2 ** 20);
    store.add(response('resp_a', [turn('a')], 'alice'), true);
    store.add(response('resp_b', [turn('b')], 'alice'), false);
    expect(store.get('resp_a', 'alice')?.turns).toHaveLength(1);
    expect(store.item('msg_a', 'alice')).toMatchObject({ id: 'msg_a' });
    for (const client of ['bob', null]) {
      expect(store.get('resp_a', client)).toBeNull();
      expect(store.item('msg_a', client)).toBeNull();
    }
    expect(store.get('resp_b', 'alice')).toBeNull();
    expect(store.item('msg_b', 'alice')).toBeNull();
  });

  test('forgets what was not used for longest', () => {
    const text = 'x'.repeat(1000);
    const store = new ResponseStore(15_000);
    for (const id of ['a', 'b', 'c']) store.add(response(id, [turn(text, `msg_${id}`)]), true);
    expect(store.get('a', null)).not.toBeNull();
    store.add(response('d', [turn(text, 'msg_d')]), true);
    expect(['a', 'b', 'c', 'd'].filter((id) => store.get(id, null) !== null)).toEqual(['a', 'c', 'd']);
    expect(store.item('msg_b', null)).toBeNull();
  });

  test('keeps a conversation whose beginning was forgotten', () => {
    const store = new ResponseStore(2 ** 20);
    const [first, second] = [turn('1'), turn('2')];
    store.add(response('a', [first]), true);
    const onlyFirst = store.bytes;
    store.add(response('b', [first, second]), true);
    // The shared turn is counted once.
    expect(store.bytes).toBeLessThan(2 * onlyFirst + 600);
    const small = new ResponseStore(store.bytes - 1);
    small.add(response('a', [first]), true);
    small.add(response('b', [first, second]), true);
    expect(small.get('a', null)).toBeNull();
    expect(small.get('b', null)?.turns).toEqual([first, second]);
    expect(small.item('msg_1', null)).not.toBeNull();
  });

  test('of no bytes keeps nothing, as does one that a response is too large for', () => {
    const store = new ResponseStore(0);
    store.add(response('a', [turn('1')]), true);
    expect([store.get('a', null), store.bytes, store.size]).toEqual([null, 0, 0]);
  });

  test('counts at least two bytes a character', () => {
    const store = new ResponseStore(2 ** 24);
    store.add(response('a', [turn('\u{1F642}'.repeat(5000))]), true);
    expect(store.bytes).toBeGreaterThan(2 * 2 * 10_000);
  });

  test('is within its limit after everything, and holds exactly what its responses need', () => {
    const limit = 8000;
    const operation = fc.record({ parent: fc.nat(30), length: fc.nat(600), touch: fc.nat(30) });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const store = new ResponseStore(limit);
        const turnsOf = new Map<string, readonly Turn[]>();
        operations.forEach(({ parent, length, touch }, i) => {
          const earlier = store.get(`r${parent}`, null)?.turns ?? [];
          const turns = [...earlier, turn('x'.repeat(length), `msg_${i}`)];
          turnsOf.set(`r${i}`, turns);
          store.add(response(`r${i}`, turns), true);
          store.get(`r${touch}`, null);
          expect(store.bytes).toBeLessThanOrEqual(limit);
        });
        const left = [...turnsOf].filter(([id]) => store.get(id, null) !== null);
        expect(left).toHaveLength(store.size);
        const needed = new Set(left.flatMap(([, turns]) => turns.map(({ output }) => output[0]?.id)));
        operations.forEach((_, i) => {
          expect(store.item(`msg_${i}`, null) !== null).toBe(needed.has(`msg_${i}`));
        });
        if (left.length === 0) expect(store.bytes).toBe(0);
      }),
    );
  });
});

describe("a connection's memory", () => {
  test('also knows what was not stored, and sees what others stored', () => {
    const store = new ResponseStore(2 ** 20);
    const [mine, other] = [new ConnectionMemory(store, 2 ** 16), new ConnectionMemory(store, 2 ** 16)];
    mine.add(response('a', [turn('1')]), false);
    mine.add(response('b', [turn('2')]), true);
    expect([mine.get('a', null), other.get('a', null), store.get('a', null)].map((r) => r?.id)).toEqual([
      'a',
      undefined,
      undefined,
    ]);
    expect([mine.get('b', null), other.get('b', null), store.get('b', null)].map((r) => r?.id)).toEqual([
      'b',
      'b',
      'b',
    ]);
    expect(mine.item('msg_1', null)).not.toBeNull();
    expect(other.item('msg_1', null)).toBeNull();
    expect(other.item('msg_2', null)).not.toBeNull();
  });
});
