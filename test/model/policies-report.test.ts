/** What a reply reports is what the caches hold, and no more than the budgets allow. */
import { beforeAll, describe, expect, test } from 'vitest';
import { headBytes } from '../../src/kv/head-cache.ts';
import { type EvictingPolicy, keptEntries } from '../../src/policies/index.ts';
import { PrefillPass } from '../../src/runtime/prefill.ts';
import type { Model } from '../../src/runtime/model.ts';
import type { KvReport } from '../../src/runtime/protocol.ts';
import { argmax } from './drive.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun, roomIn } from './pruned-drive.ts';
import { EngineRun, makeIds, makeRequest, STORIES } from './support/engine.ts';
import { CASES, choiceOf, GQA, LAST_OF_EACH, policiesOf, withPattern } from './support/policies.ts';

const NUM_PROMPT = 290;
const NUM_NEW = 18;
/** As the engine's. */
const TILE_ROWS = 256;

const load = modelLoader();

/** Counted head by head. */
function count(run: PrunedRun): { entries: number; bytes: number; resident: number } {
  const { shape } = run.cache;
  let [entries, bytes, resident] = [0, 0, run.cache.aux.bytes];
  run.lengths.forEach((heads, layer) => {
    const { headDim } = shape[layer]!;
    for (const [head, length] of heads.entries()) {
      expect(run.cache.heads(layer)[head]!.length).toBe(length);
      expect(new Set(run.positions(layer, head)).size, 'each position once').toBe(length);
      entries += length;
      bytes += length * headDim * 2 * 4;
      resident += headBytes(headDim, length);
    }
  });
  return { entries, bytes, resident };
}

/** Prefills, and notes the most bytes that were ever in use between two tiles. */
async function prefillWatched(model: Model, run: PrunedRun, ids: readonly number[]) {
  let most = 0;
  let logits = new Float32Array(0);
  const request = {
    tokenIds: Int32Array.from(ids),
    start: 0,
    cache: run.cache,
    logits: 'last' as const,
    onLogits: (_: number, values: Float32Array) => (logits = values.slice()),
    pruning: run.pruning,
    ...roomIn(run.cache),
  };
  const pass = new PrefillPass(model, [request], TILE_ROWS);
  while (await pass.step()) most = Math.max(most, run.cache.entryBytes);
  run.numComputed = ids.length;
  return { most, logits };
}

/** What each layer of an evicting policy may hold on average, in entries a head. */
function allowed(policy: EvictingPolicy, numSeen: number): number {
  return Math.max(keptEntries(policy.budget, numSeen), policy.sink + policy.recent);
}

describe.each([
  ['stories260K', STORIES, CASES],
  ['grouped queries', GQA, LAST_OF_EACH],
])('%s', (_, dir, cases) => {
  let model: Model;
  beforeAll(async () => {
    model = withPattern(await load(dir));
  });

  test.each(cases)('$title', async (policyCase) => {
    const choice = choiceOf(model, policyCase);
    const policies = policiesOf(model, choice);
    const ids = makeIds(NUM_PROMPT, model.info.vocabSize, 4);
    const run = new PrunedRun(model, policies);
    const { most, logits } = await prefillWatched(model, run, ids);
    const afterPrompt = run.pruning.report(run.numComputed);
    const numHeads = model.kvShape.reduce((sum, { kvHeads }) => sum + kvHeads, 0);

    const { kv } = policies;
    if (kv?.kind === 'evict')
      expect(count(run).entries).toBeLessThanOrEqual(numHeads * allowed(kv, NUM_PROMPT));
    if (afterPrompt.kv !== null) {
      const { entries, bytes } = count(run);
      expect(afterPrompt.kv).toMatchObject({
        entriesKept: entries,
        entriesSeen: NUM_PROMPT * numHeads,
        bytes,
        peakBytes: most,
      });
    }

    const tokens = [argmax(logits)];
    while (tokens.length < NUM_NEW) tokens.push(argmax(await run.decode(tokens.at(-1)!)));
    const report = run.pruning.report(run.numComputed);
    const { entries, bytes, resident } = count(run);
    if (report.kv !== null) expectSound(report.kv, { entries, bytes, numTokens: run.numComputed, numHeads });

    // Through the engine: the same, and resident until the last token is out.
    const engine = new EngineRun(model);
    const recording = engine.submit(makeRequest(ids, { maxTokens: NUM_NEW + 2, pruning: choice }));
    while (recording.tokens().length < NUM_NEW) await engine.turn();
    const { kvBytes, kvBytesByKind } = engine.engine.stats();
    // A block more for the next entry, in heads that hold any: none where attention is left out.
    const numLive = run.lengths.flat().filter((length) => length > 0).length;
    expect(kvBytes).toBeGreaterThanOrEqual(resident);
    expect(kvBytes).toBeLessThanOrEqual(resident + numLive * headBytes(model.kvShape[0]!.headDim, 64));
    const { dense, retrieval, streaming, pruned } = kvBytesByKind;
    expect(retrieval + streaming + pruned).toBe(kvBytes);
    expect(dense).toBe(0);
    await engine.untilIdle();
    expect(recording.tokens().slice(0, NUM_NEW)).toEqual(tokens);
    for (const last of recording.tokens().slice(NUM_NEW - 1, -1)) await run.decode(last);
    expect(recording.done.pruning).toEqual(run.pruning.report(run.numComputed));
    expect(engine.engine.stats()).toMatchObject({ kvBytes: 0, prefixCacheBytes: 0 });
    run.cache.free();
  });
});

function expectSound(
  report: KvReport,
  { entries, bytes, numTokens, numHeads }: Record<'entries' | 'bytes' | 'numTokens' | 'numHeads', number>,
): void {
  expect(report).toMatchObject({ entriesKept: entries, entriesSeen: numTokens * numHeads, bytes });
  expect(report.peakBytes).toBeGreaterThanOrEqual(bytes);
  expect(report.denseBytes).toBeGreaterThanOrEqual(report.peakBytes);
  // One head dimension a model: both shares agree.
  expect(report.bytes / report.denseBytes).toBeCloseTo(entries / report.entriesSeen, 9);
  if (report.streamingHeads !== null) expect(report.retrievalHeads! + report.streamingHeads).toBe(numHeads);
}
