/** What int8 may cost: the demo model on a novel that it has not seen, against its own fp32. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { argmax, logProbability, NOVEL, RECALL_DIR, scorePrompt } from './drive.ts';
import { modelLoader } from './fixture.ts';

const model = modelLoader();
const NUM_TOKENS = 1024;

it('keeps the likeliest token and the perplexity of a text', async () => {
  const text = Tokenizer.load(RECALL_DIR).encodePlain(readFileSync(NOVEL, 'utf8'));
  const ids = text.slice(0, NUM_TOKENS);
  const fp32 = await scorePrompt(await model(RECALL_DIR, 'fp32'), ids);
  const int8 = await scorePrompt(await model(RECALL_DIR, 'int8'), ids);
  const agreement = fp32.filter((row, i) => argmax(row) === argmax(int8[i]!)).length / NUM_TOKENS;
  const perplexity = (rows: Float32Array[]): number => {
    const losses = rows.slice(0, -1).map((row, i) => -logProbability(row, ids[i + 1]!));
    return Math.exp(losses.reduce((a, b) => a + b, 0) / losses.length);
  };
  // Measured: 97 % and less than 0.1 %, see docs/parity.md.
  expect(agreement).toBeGreaterThan(0.95);
  expect(Math.abs(perplexity(int8) / perplexity(fp32) - 1)).toBeLessThan(0.005);
  // Not by computing the same thing twice.
  expect(agreement).toBeLessThan(1);
});

it('keeps a row of zeros zero, and the row beside it as it is alone', async () => {
  const { architecture, session } = await model(RECALL_DIR, 'int8');
  const { hiddenSize } = architecture.config;
  const { queryHeads, kvHeads, headDim } = architecture.layers[0]!.attention!;
  const width = (queryHeads + 2 * kvHeads) * headDim;
  const row = (values: number, length: number): number[] => Array<number>(length).fill(values);
  const angles = (numRows: number) => ({
    cos: new Float32Array((numRows * headDim) / 2).fill(1),
    sin: new Float32Array((numRows * headDim) / 2),
  });
  const open = async (...rows: number[]): Promise<Float32Array> => {
    const hidden = Float32Array.from(rows.flatMap((value) => row(value, hiddenSize)));
    const common = { layer: 0, projected: null, attention: { kind: 'none' }, signal: 'none' } as const;
    const result = await session.run({ ...common, numRows: rows.length, hidden, rope: angles(rows.length) });
    return result.projected;
  };
  const both = await open(0, 0.5);
  // The demo model's projections have no biases.
  expect(both.subarray(0, width).every((value) => value === 0)).toBe(true);
  expect([...both.subarray(width)]).toEqual([...(await open(0.5))]);
});
