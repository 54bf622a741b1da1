/** The evaluation on the demo model itself: dense scores, its two perplexities, and settings that fail. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Driver, SettingError } from '../../eval/driver.ts';
import { evaluate } from '../../eval/evaluate.ts';
import { forcedContinuation } from '../../eval/forcing.ts';
import { readPassages, readQuestions, readTextLayer } from '../../eval/items.ts';
import { answer } from '../../eval/quality.ts';
import { RECALL_DIR } from './drive.ts';
import { modelLoader } from './fixture.ts';

const model = modelLoader();
const text = readTextLayer(RECALL_DIR);
const options = { kvMaxBytes: 2 ** 30, maxRunning: 4 };

it('scores the dense model at 100 % recall, and measures what it costs', async () => {
  const evaluation = { sets: ['recall'], limit: 2, costItems: 1 } as const;
  const results = await evaluate(await model(RECALL_DIR, 'int8', 2), text, [], evaluation);
  expect(results.map(({ name, failure }) => [name, failure])).toEqual([['dense', null]]);
  const { quality, cost, ratios } = results[0]!;
  expect(Object.keys(quality!.recall!)).toEqual(['256', '512', '1024', '2048', 'all']);
  expect(quality!.recall!['all']).toMatchObject({ exact: 1, n: 8 });
  expect(Object.keys(cost)).toEqual(['256', '512', '1024', '2048']);
  expect(cost['256']).toMatchObject({ items: 1, kv_share: 1, computed_share: 1 });
  expect(cost['2048']!.pool_peak_bytes).toBeGreaterThan(4 * cost['256']!.pool_peak_bytes);
  expect(ratios.quality!.lost_points).toEqual({ recall: 0 });
});

it("writes the reference's texts in fp32", async () => {
  const file = join(import.meta.dirname, '../../eval/reference-coppice-recall.json');
  const { outputs } = JSON.parse(readFileSync(file, 'utf8')) as { outputs: Record<string, string> };
  const driver = new Driver(await model(RECALL_DIR, 'fp32', 2), options);
  const questions = (['recall', 'turns', 'copy'] as const).flatMap((set) => readQuestions(set, text, 1));
  const texts = await answer(driver, questions, null, text);
  expect(texts).toEqual(questions.map(({ id }) => outputs[id]));
});

it('forces a continuation, token by token, and scores it as a prompt would', async () => {
  const driver = new Driver(await model(RECALL_DIR, 'fp32', 2), options);
  const ids = readPassages(text, 1)[0]!.ids.slice(0, 400);
  const cuts = [100, 200, 300].map((start) => ({ start, work: forcedContinuation(ids, start) }));
  const { replies } = await driver.run(
    [{ promptIds: ids, maxTokens: 0, promptLogprobs: 0 }, ...cuts.map(({ work }) => work)],
    null,
  );
  const scored = replies[0]!.promptLogprobs;
  cuts.forEach(({ start, work }, i) => {
    const reply = replies[i + 1]!;
    expect(reply.ids).toEqual([...ids.slice(start, start + work.maxTokens)]);
    reply.logprobs.forEach((logprob, k) => {
      expect(logprob).toBeCloseTo(scored[start + k]!, 3);
    });
  });
});

it('gives up a setting whose requests fail, and goes on with the next', async () => {
  const driver = new Driver(await model(RECALL_DIR, 'fp32', 2), options);
  const promptIds = Int32Array.of(0, 300, 301);
  await expect(driver.run([{ promptIds, maxTokens: 9000 }], null)).rejects.toThrow(SettingError);
  const broken = { promptIds: Int32Array.of(99_999), maxTokens: 1 };
  await expect(driver.run([broken], null)).rejects.toThrow(SettingError);
  const { replies } = await driver.run([{ promptIds, maxTokens: 3 }], null);
  expect(replies[0]!.ids.length).toBe(3);
});
