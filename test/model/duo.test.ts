/** DuoAttention against the authors' two-cache forward and their rule on whole models, and against a naive mask. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { SplitPolicy } from '../../src/policies/index.ts';
import { maxDifference } from './drive.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun } from './pruned-drive.ts';

interface Case {
  readonly model: string;
  readonly input_ids: number[];
  readonly full_kv_heads: boolean[][];
  readonly sink: number;
  readonly recent: number;
  readonly prefill_chunk: number;
  readonly prefill_last_logits: number[][];
  readonly greedy: number[];
  readonly decode_logits_first_and_last: number[][];
  readonly final_cache_lengths: number[][];
}

const root = join(import.meta.dirname, '../..');
const cases = JSON.parse(readFileSync(join(root, 'test/fixtures/duo/model.json'), 'utf8')) as Case[];
const model = modelLoader();
const TOLERANCE = 2e-3;

function split(reference: Case, prefill: SplitPolicy['prefill']): SplitPolicy {
  const { full_kv_heads: full, sink, recent } = reference;
  return {
    kind: 'split',
    streaming: full.map((heads) => heads.map((isFull) => !isFull)),
    sink,
    recent,
    prefill,
  };
}

function argmax(logits: Float32Array): number {
  return logits.reduce((best, value, i) => (value > logits[best]! ? i : best), 0);
}

describe.each(cases.map((reference, i) => [`case ${i}, ${reference.model}`, reference] as const))(
  '%s',
  (_, reference) => {
    // In the authors' deployment, a call's own keys are visible to all heads: each call is a pass of its own here.
    it('prefill in calls, then greedy decoding, as deployed', async () => {
      const loaded = await model(join(root, reference.model));
      const run = new PrunedRun(loaded, { kv: split(reference, 'exact') });
      const { input_ids: ids, prefill_chunk: chunk } = reference;
      let rows: Float32Array[] = [];
      for (let at = 0; at < ids.length; at += chunk)
        rows = await run.prefill(ids.slice(at, at + chunk), 'all', 16);
      const expected = reference.prefill_last_logits;
      rows.slice(-expected.length).forEach((logits, i) => {
        expect(maxDifference(logits, expected[i]!)).toBeLessThan(TOLERANCE);
      });
      const greedy: number[] = [];
      const decoded: Float32Array[] = [];
      for (let logits = rows.at(-1)!; greedy.length < reference.greedy.length; logits = decoded.at(-1)!) {
        greedy.push(argmax(logits));
        decoded.push(await run.decode(greedy.at(-1)!));
      }
      expect(greedy).toEqual(reference.greedy);
      const [first, last] = reference.decode_logits_first_and_last;
      expect(maxDifference(decoded[0]!, first!)).toBeLessThan(TOLERANCE);
      expect(maxDifference(decoded.at(-1)!, last!)).toBeLessThan(TOLERANCE);
      expect(run.lengths).toEqual(reference.final_cache_lengths);
      run.cache.free();
    });

    // A decode step sees sinks, the window and itself: that is the rule for every row, however high the tiles.
    it.each([1, 7, 64, 256])(
      'streaming in the prompt equals token by token, in tiles of %i rows',
      async (tileRows) => {
        const loaded = await model(join(root, reference.model));
        const kv = split(reference, 'streaming');
        const ids = reference.input_ids.slice(0, 110);
        const stepwise = new PrunedRun(loaded, { kv });
        const expected = [(await stepwise.prefill(ids.slice(0, 1), 'last'))[0]!];
        for (const id of ids.slice(1)) expected.push(await stepwise.decode(id));
        const run = new PrunedRun(loaded, { kv });
        const rows = await run.prefill(ids, 'all', tileRows);
        rows.forEach((logits, row) => {
          expect(maxDifference(logits, expected[row]!), `row ${row}`).toBeLessThan(1e-3);
        });
        expect(run.lengths).toEqual(stepwise.lengths);
        for (const [layer, heads] of run.lengths.entries())
          heads.forEach((_length, head) => {
            expect(run.positions(layer, head)).toEqual(stepwise.positions(layer, head));
          });
        stepwise.cache.free();
        run.cache.free();
      },
    );
  },
);
