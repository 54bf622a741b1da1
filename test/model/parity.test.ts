/** fp32 against the reference values of Hugging Face transformers: logits and greedy tokens of every checkpoint. */
import { describe, expect, it } from 'vitest';
import { PrefillPass } from '../../src/runtime/prefill.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import {
  checkpoints,
  decodeOne,
  emptyCache,
  greedy,
  greedyOf,
  maxDifference,
  prefill,
  scorePrompt,
  TILE_ROWS,
} from './drive.ts';
import { modelLoader } from './fixture.ts';

/** The references allow 2e-3; this is what float32 reaches here, with room for other processors' order of sums. */
const TOLERANCE = 1e-4;
const model = modelLoader();

describe.each([...checkpoints('arch'), ...checkpoints('models')])('$name', ({ dir, cases }) => {
  it.each(cases)('prompt %#: logits of the last four positions', async ({ input_ids, last4_logits }) => {
    const logits = await scorePrompt(await model(dir), input_ids);
    expect(logits).toHaveLength(input_ids.length);
    expect(
      maxDifference(
        logits.slice(-4).flatMap((row) => [...row]),
        last4_logits.flat(),
      ),
    ).toBeLessThan(TOLERANCE);
  });

  it.each(cases)('prompt %#: greedy tokens', async (reference) => {
    const expected = greedyOf(reference);
    expect(expected.length).toBeGreaterThanOrEqual(16);
    expect(await greedy(await model(dir), reference.input_ids, expected.length)).toEqual(expected);
  });
});

describe.each(checkpoints('models'))('$name in text', ({ dir, cases }) => {
  it.each(cases)('continues $prompt', async (reference) => {
    const tokenizer = Tokenizer.load(dir);
    expect(tokenizer.encode(reference.prompt!)).toEqual(reference.input_ids);
    const ids = await greedy(await model(dir), reference.input_ids, greedyOf(reference).length);
    const text = tokenizer.decode([...reference.input_ids, ...ids], { skipSpecialTokens: false });
    expect(text.endsWith(reference.greedy_text!)).toBe(true);
  });
});

/** Every kind of layer: window, no rope, absent parts, several shapes, one KV head. */
const shapes = [
  'llama-gqa-rope3',
  'llama-mqa-v5config',
  'llama-pruned-shapes',
  'mistral-swa',
  'smollm3-nope',
];
const long = checkpoints('arch')
  .filter(({ name }) => shapes.includes(name))
  .map(({ name, dir, cases }) => ({ name, dir, reference: cases.at(-1)! }));

describe.each(long)('$name, however its prompt of 300 tokens is cut', ({ dir, reference }) => {
  const { input_ids: ids, last4_logits } = reference;

  it('across borders of tiles, the last row of a prefix is that row of the whole', async () => {
    const whole = await scorePrompt(await model(dir), ids);
    for (const length of [
      1,
      2,
      TILE_ROWS - 1,
      TILE_ROWS,
      TILE_ROWS + 1,
      2 * TILE_ROWS,
      2 * TILE_ROWS + 1,
      299,
    ]) {
      const cache = emptyCache(await model(dir), length);
      const last = await prefill(await model(dir), cache, ids.slice(0, length), { logits: 'last' });
      expect(last).toHaveLength(1);
      expect(maxDifference(last[0]!, whole[length - 1]!)).toBeLessThan(TOLERANCE);
      expect(cache.holdsExactly(length)).toBe(true);
      cache.free();
    }
  });

  it('into two passes, it ends in the logits of the reference', async () => {
    for (const first of [1, 23, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 200, 296]) {
      const cache = emptyCache(await model(dir), ids.length);
      await prefill(await model(dir), cache, ids.slice(0, first), { logits: 'last' });
      const rest = await prefill(await model(dir), cache, ids.slice(first), { start: first });
      expect(
        maxDifference(
          rest.slice(-4).flatMap((row) => [...row]),
          last4_logits.flat(),
        ),
      ).toBeLessThan(TOLERANCE);
      cache.free();
    }
  });

  it('into single decode steps, it ends in the logits of the reference', async () => {
    const cache = emptyCache(await model(dir), ids.length);
    const rows: Float32Array[] = [];
    for (const [position, id] of ids.entries())
      rows.push(await decodeOne(await model(dir), cache, id, position));
    expect(
      maxDifference(
        rows.slice(-4).flatMap((row) => [...row]),
        last4_logits.flat(),
      ),
    ).toBeLessThan(TOLERANCE);
    cache.free();
  });

  it('into a pass shared with more prompts than a decode step holds, one of them dropped on the way', async () => {
    const loaded = await model(dir);
    const whole = await scorePrompt(loaded, ids);
    const lengths = [300, 131, 7, 128, 40, 1, 260, 3, 64, 9];
    const rows = new Map<number, Float32Array[]>(lengths.map((length) => [length, []]));
    const requests = lengths.map((length) => ({
      tokenIds: Int32Array.from(ids.slice(0, length)),
      start: 0,
      cache: emptyCache(loaded, length),
      logits: 'last' as const,
      onLogits: (_row: number, logits: Float32Array) => rows.get(length)!.push(logits.slice()),
    }));
    const pass = new PrefillPass(loaded, requests, TILE_ROWS);
    const dropped = requests[3]!;
    for (let step = 0; await pass.step(); step++) {
      if (step !== 5) continue;
      pass.drop(dropped.cache);
      dropped.cache.free();
    }
    for (const length of lengths) {
      const got = rows.get(length)!;
      expect(got).toHaveLength(length === dropped.tokenIds.length ? 0 : 1);
      for (const logits of got) expect(maxDifference(logits, whole[length - 1]!)).toBeLessThan(TOLERANCE);
    }
    expect(pass.share).toBeLessThanOrEqual(1);
  });
});
