/** The auxiliary cache is KV memory: counted, expected, refused and given back as entries are. */
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { AuxCache } from '../../src/kv/aux-cache.ts';
import { PAGE_BYTES } from '../../src/kv/pages.ts';
import type { ActivePolicies, AliveTokens } from '../../src/policies/index.ts';
import { Memory } from '../../src/runtime/memory.ts';
import type { Model } from '../../src/runtime/model.ts';
import type { GenerationRequest } from '../../src/runtime/protocol.ts';
import { peakBytes } from '../../src/runtime/pruning/footprint.ts';
import { soloStep } from '../../src/runtime/pruning/solo-decode.ts';
import { createSamplingWorkspace } from '../../src/runtime/sampling/distribution.kernel.ts';
import { createSampler } from '../../src/runtime/sampling/sampler.ts';
import { LiveRequest, Sequence } from '../../src/runtime/sequence.ts';
import { fill } from '../kv/fill.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun, roomIn } from './pruned-drive.ts';
import { EngineRun, kvBytes, makeIds, makeRequest, runAlone, STORIES } from './support/engine.ts';
import { choose, GQA, policiesOf } from './support/policies.ts';

const STAGES = [
  { layer: 0, keep: 0.6 },
  { layer: 1, keep: 0.5 },
];
const LAZY = { tokens: { policy: 'lazyllm', stages: STAGES } };
const NUM_PROMPT = 200;

const load = modelLoader();
let model: Model;
beforeAll(async () => {
  model = await load(STORIES);
});
afterEach(() => {
  vi.restoreAllMocks();
});

const ids = (length: number, seed: number) => makeIds(length, model.info.vocabSize, seed);
const lazyRequest = (seed: number, { maxTokens = 12, numChoices = 1, numTokens = NUM_PROMPT } = {}) =>
  makeRequest(ids(numTokens, seed), { maxTokens, numChoices, pruning: choose(model, LAZY) });

/** Bytes of the heads, counted one by one. */
function headBytesOf({ cache }: PrunedRun): number {
  return cache.shape.flatMap((_, layer) => cache.heads(layer)).reduce((sum, { bytes }) => sum + bytes, 0);
}

type Select = (numAlive: number, budget: number, layer: number, call: number) => number[];

/** As LazyLLM, but which tokens go on, beside the last one, is up to `select`. */
function selecting(select: Select): (policies: ActivePolicies) => ActivePolicies {
  let calls = 0;
  return ({ tokens, ...others }) => ({
    ...others,
    tokens: tokens && {
      ...tokens,
      select: ({ positions, layer }: AliveTokens, budget: number): Int32Array => {
        const last = positions.length - 1;
        return Int32Array.from([...select(last, budget - 1, layer, calls++), last]);
      },
    },
  });
}

/** All come back sooner or later. */
const restless = selecting((numAlive, budget, _, call) => {
  const order = makeIds(numAlive, 2 ** 20, call).map((id, i) => [id, i] as const);
  const chosen = order.sort(([a], [b]) => a - b).slice(0, budget);
  return chosen.map(([, i]) => i).sort((a, b) => a - b);
});

/** All come back from the first stage sooner or later, to wait at the last one, where always the same go on. */
const crowding = selecting((numAlive, budget, layer, call) => {
  const isFirst = layer === 0;
  const numFixed = isFirst ? budget >> 1 : budget;
  const shift = (call * 20) % (numAlive - budget + 1);
  return Array.from({ length: budget }, (_, i) => (i < numFixed || !isFirst ? i : i + shift));
});

describe.each([
  ['stories260K', STORIES],
  ['grouped queries', GQA],
])('%s', (_, dir) => {
  test.each([
    ['as attention says', (policies: ActivePolicies) => policies],
    ['each step others', restless],
    ['as many as can wait', crowding],
  ])('the pool counts what waits, and admission expects as much: %s', async (__, vary) => {
    const own = await load(dir);
    const policies = vary(policiesOf(own, choose(own, LAZY)));
    const run = new PrunedRun(own, policies);
    const extent = (newTokens: number) => ({ promptTokens: NUM_PROMPT, newTokens });
    const expectCounted = (numDecoded: number): void => {
      const { aux } = run.cache;
      if (numDecoded === 0) expect(aux.rowBytes).toBeGreaterThan(0);
      expect(aux.bytes).toBeGreaterThanOrEqual(aux.rowBytes);
      expect(run.pool.usedBytes).toBe(headBytesOf(run) + aux.bytes);
      expect(run.pruning.report(run.numComputed).tokens?.auxBytes).toBe(aux.rowBytes);
      expect(run.pool.usedBytes).toBeLessThanOrEqual(peakBytes(policies, own, extent(numDecoded)));
      const without = { ...policies, tokens: null };
      const expected =
        peakBytes(policies, own, extent(numDecoded)) - peakBytes(without, own, extent(numDecoded));
      expect(aux.bytes).toBeLessThanOrEqual(expected);
    };
    await run.prefill(makeIds(NUM_PROMPT, own.info.vocabSize, 1));
    expectCounted(0);
    for (let step = 1; step <= 20; step++) {
      await run.decode(5 + step);
      expectCounted(step);
    }
    run.cache.free();
    expect([run.pool.usedBytes, run.pool.usedBuffers]).toEqual([0, 0]);
  });
});

test('the bound is nearly reached when all that can has come up to the last stage', async () => {
  const policies = crowding(policiesOf(model, choose(model, LAZY)));
  const run = new PrunedRun(model, policies);
  await run.prefill(ids(NUM_PROMPT, 1));
  for (let step = 0; step < 30; step++) await run.decode(5 + step);
  const extent = { promptTokens: NUM_PROMPT, newTokens: 30 };
  const expected =
    peakBytes(policies, model, extent) - peakBytes({ ...policies, tokens: null }, model, extent);
  // 230 tokens, 138 at the first stage, 69 at the last: rows of 256 bytes, a page holds 16.
  expect(expected).toBe((Math.ceil((230 - 69) / 16) + 1) * PAGE_BYTES);
  expect(run.cache.aux.bytes).toBeGreaterThan(0.7 * expected);
  run.cache.free();
});

describe('the engine', () => {
  test('reports it with what running choices hold, and each choice holds its own', async () => {
    const bytes: number[] = [];
    for (const numChoices of [1, 3]) {
      const run = new EngineRun(model);
      const recording = run.submit(lazyRequest(1, { numChoices }));
      while (recording.tokens(numChoices - 1).length < 6) await run.turn();
      const { kvBytes, kvBytesByKind } = run.engine.stats();
      expect(kvBytesByKind).toEqual({ dense: 0, retrieval: 0, streaming: 0, pruned: kvBytes });
      bytes.push(kvBytes);
      await run.untilIdle();
    }
    expect(bytes[1]).toBe(3 * bytes[0]!);
    const alone = new PrunedRun(model, policiesOf(model, choose(model, LAZY)));
    await alone.prefill(ids(NUM_PROMPT, 1));
    expect(bytes[0]).toBeGreaterThanOrEqual(headBytesOf(alone) + alone.cache.aux.rowBytes);
    alone.cache.free();
  });

  test('refuses what does not fit with it', async () => {
    const policies = policiesOf(model, choose(model, LAZY));
    const needed = peakBytes(policies, model, { promptTokens: NUM_PROMPT, newTokens: 12 });
    const run = new EngineRun(model, { kvMaxBytes: needed - 1 });
    const recording = run.submit(lazyRequest(1));
    await run.untilIdle();
    expect(recording.events).toMatchObject([{ type: 'error', code: 'kv_memory_exceeded' }]);
  });

  // Beside two prompts in all layers but the last, 12 pages each for rows that leave, once 8 are taken for what stays.
  test.each([140, 160])(
    'preempts where rows find no room, and replies as if there were plenty: %i pages',
    async (numPages) => {
      const late = { tokens: { policy: 'lazyllm', stages: [{ layer: 3, keep: 0.1 }] } };
      const requests = [1, 2].map((seed) => ({ ...lazyRequest(seed), pruning: choose(model, late) }));
      const reserve = vi.spyOn(AuxCache.prototype, 'reserve');
      const run = new EngineRun(model, { kvMaxBytes: numPages * PAGE_BYTES });
      const together = requests.map((request) => run.submit(request));
      await run.untilIdle();
      expect(reserve.mock.results.some(({ value }) => value === false)).toBe(true);
      expect(run.engine.stats().preemptions).toBe(1);
      for (const [i, request] of requests.entries())
        expect(together[i]!.tokens()).toEqual((await runAlone(model, request)).tokens());
    },
  );
});

test('kept prefixes give way to it', () => {
  // A page holds 128 keys of a head.
  const block = kvBytes(model, 128);
  const memory = new Memory(model, { kvMaxBytes: 3 * block + PAGE_BYTES, prefixCacheMaxBytes: block });
  const open = (request: GenerationRequest, policies: ActivePolicies | null): Sequence => {
    const live = new LiveRequest(request, policies, 0, () => undefined);
    const sampler = createSampler(request.sampling, { ...request, choice: 0, constraint: null, workspace });
    const sequence = new Sequence(live, 0, sampler, request.maxTokens);
    expect(memory.open(sequence, [])).toBe(true);
    return sequence;
  };
  const workspace = createSamplingWorkspace(model.info.vocabSize);
  const kept = open(makeRequest(ids(20, 1), { cachePrompt: true }), null);
  fill(kept.cache!, new Float32Array(20));
  kept.numComputed = 20;
  memory.close(kept);
  const { cache } = open(lazyRequest(1, { numTokens: 20 }), policiesOf(model, choose(model, LAZY)));
  expect(cache!.reserve(192)).toBe(true);
  expect(memory.reserveAux(cache!, 16, 0)).toBe(true);
  expect(memory.state([])).toMatchObject({ kvBytes: 2 * block + PAGE_BYTES, prefixCacheBytes: block });
  expect(memory.reserveAux(cache!, 17, 0)).toBe(true);
  expect(memory.state([])).toMatchObject({ kvBytes: 2 * block + 2 * PAGE_BYTES, prefixCacheBytes: 0 });
  cache!.free();
  memory.checkIdle();
});

test('a prompt or step whose rows find no room ends at once', async () => {
  const policies = policiesOf(model, choose(model, LAZY));
  const refused = new PrunedRun(model, policies);
  vi.spyOn(refused.cache, 'reserveAux').mockReturnValue(false);
  expect(await refused.prefill(ids(NUM_PROMPT, 1))).toEqual([]);
  expect(refused.cache.aux.bytes).toBe(0);
  refused.cache.free();

  const run = new PrunedRun(model, restless(policies));
  await run.prefill(ids(NUM_PROMPT, 1));
  const position = run.numComputed;
  const room = { ...roomIn(run.cache), reserveAux: () => false };
  expect(await soloStep(model, { tokenId: 7, position, pruning: run.pruning, ...room })).toBeNull();
  expect(run.pool.usedBytes).toBe(run.cache.bytes);
  run.cache.free();
  expect(run.pool.usedBytes).toBe(0);
});
