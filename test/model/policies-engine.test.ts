/** Under every policy: choices share nothing, cancelling frees everything, what is admitted fits. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { Model } from '../../src/runtime/model.ts';
import { peakBytes } from '../../src/runtime/pruning/footprint.ts';
import { modelLoader } from './fixture.ts';
import { EngineRun, makeIds, makeRequest, runAlone, STORIES } from './support/engine.ts';
import { choose, LAST_OF_EACH, policiesOf, type Setting, withPattern } from './support/policies.ts';

const load = modelLoader();
let model: Model;
beforeAll(async () => {
  model = withPattern(await load(STORIES));
});

const ids = (length: number, seed: number) => makeIds(length, model.info.vocabSize, seed);

/** Every policy, and combinations. */
const SETTINGS: readonly { readonly title: string; readonly value: Setting }[] = [
  ...LAST_OF_EACH.map(({ family, title, value }) => ({ title, value: { [family]: value } })),
  ...[
    { tokens: 'lazyllm', kv: { policy: 'duo-attention', sparsity: 0.5, sink: 4, recent: 16 } },
    {
      tokens: 'spatten',
      kv: { policy: 'kvzip', keep: 0.5 },
      layers: { policy: 'attention-drop', drop: [2] },
    },
  ].map((value) => ({ title: JSON.stringify(value), value })),
];

describe.each(SETTINGS)('$title', ({ value }) => {
  test('three choices that start from copies are those that each compute the prompt', async () => {
    const request = makeRequest(ids(80, 3), {
      numChoices: 3,
      maxTokens: 12,
      sampling: { temperature: 0.9, seed: 7 },
      pruning: choose(model, value),
    });
    const forked = await runAlone(model, request);
    const apart = new EngineRun(model, { maxRunning: 1 });
    const each = apart.submit(request);
    await apart.untilIdle();
    for (const choice of [0, 1, 2]) {
      expect(forked.tokens(choice)).toHaveLength(12);
      expect(forked.tokens(choice)).toEqual(each.tokens(choice));
    }
    expect(new Set([0, 1, 2].map((choice) => String(forked.tokens(choice)))).size).toBe(3);
    expect(forked.done.pruning).toEqual(each.done.pruning);
  });

  // Two tiles for each layer, one for what closes a prompt, and some steps after it.
  test('cancelled after any number of turns, it leaves nothing behind', async () => {
    const run = new EngineRun(model);
    const pruning = choose(model, value);
    for (const [numTokens, stride] of [
      [270, 2],
      [60, 3],
    ] as const) {
      for (let numTurns = 1, wasDone = false; !wasDone && numTurns < 40; numTurns += stride) {
        const recording = run.submit(makeRequest(ids(numTokens, numTurns), { maxTokens: 3, pruning }));
        for (let turn = 0; turn < numTurns; turn++) await run.turn();
        wasDone = recording.hasEnded;
        run.cancel(recording);
        await run.turn();
        expect(run.engine.isIdle).toBe(true);
        expect(run.engine.stats()).toMatchObject({ running: 0, kvBytes: 0, prefixCacheBytes: 0 });
      }
    }
  });

  test('what is admitted can run to its end alone', async () => {
    const policies = policiesOf(model, choose(model, value));
    for (const [promptTokens, newTokens] of [
      [270, 20],
      [60, 70],
    ] as const) {
      const extent = { promptTokens, newTokens };
      const kvMaxBytes = peakBytes(policies, model, extent);
      const run = new EngineRun(model, { kvMaxBytes });
      const options = { maxTokens: newTokens, pruning: choose(model, value) };
      const recording = run.submit(makeRequest(ids(promptTokens, 1), options));
      await run.untilIdle();
      expect(recording.tokens(), `${promptTokens} tokens`).toHaveLength(newTokens);
      expect(run.engine.stats().preemptions).toBe(0);
    }
  });
});
