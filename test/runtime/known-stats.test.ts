/** The engine's state across crashes: gauges empty, totals never fall. */
import { expect, test } from 'vitest';
import { KnownStats } from '../../src/runtime/known-stats.ts';
import type { EngineStats } from '../../src/runtime/protocol.ts';

const told = (total: number, held: number): EngineStats => ({
  running: held,
  waiting: held,
  parked: held,
  kvBytes: held,
  kvBytesByKind: { dense: held, retrieval: 0, streaming: 0, pruned: 0 },
  prefixCacheBytes: held,
  kvLimitBytes: 1000,
  kvLimitTokens: 10,
  preemptions: total,
  promptTokens: 2 * total,
  cachedTokens: 3 * total,
  generatedTokens: 4 * total,
});

test('a state told is the state known', () => {
  const stats = new KnownStats();
  expect(stats.last).toBeNull();
  stats.carry();
  expect(stats.last).toBeNull();
  expect(stats.note(told(5, 7))).toEqual(told(5, 7));
  expect(stats.last).toEqual(told(5, 7));
});

test('after each crash nothing is held and totals go on', () => {
  const stats = new KnownStats();
  stats.note(told(5, 7));
  stats.carry();
  expect(stats.last).toEqual(told(5, 0));
  stats.note(told(0, 0));
  stats.note(told(2, 3));
  expect(stats.last).toEqual(told(7, 3));
  stats.carry();
  stats.carry();
  expect(stats.note(told(1, 1))).toEqual(told(8, 1));
});
