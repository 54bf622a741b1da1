/** From measurements to the table and the JSON, on made-up numbers. */
import { describe, expect, it } from 'vitest';
import { costRatios, summariseCost, type Sample } from '../../eval/cost.ts';
import { summarise, type Measured, type SettingResult } from '../../eval/results.ts';
import { wilson } from '../../eval/scores.ts';
import { resultTables } from '../../eval/table.ts';
import type { Question } from '../../eval/items.ts';
import type { Quality } from '../../eval/quality.ts';
import type { PruningReport } from '../../src/runtime/protocol.ts';

const report: PruningReport = {
  tokens: { seen: 100, stages: [], rowsComputed: 420, layers: 6, revived: 0, auxBytes: 0 },
  kv: {
    bytes: 300,
    peakBytes: 500,
    denseBytes: 1000,
    entriesKept: 3,
    entriesSeen: 10,
    retrievalHeads: null,
    streamingHeads: null,
  },
  layers: null,
};

function sample(ttftMs: number, options: Partial<Sample> = {}): Sample {
  return {
    promptTokens: 100,
    ttftMs,
    prefillMs: ttftMs - 1,
    decodeMsPerToken: 10,
    pool: { peak: 1000, end: 800 },
    report: null,
    ...options,
  };
}

const question = (id: string, length: string): Question => ({
  id,
  set: 'recall',
  groups: [length],
  promptIds: Int32Array.of(1),
  answer: '',
  maxTokens: 1,
});

const books = {
  perplexity: 20,
  bits_per_byte: 1,
  tokens: 9,
  continuation_perplexity: 30,
  continuation_tokens: 3,
};
const share = (exact: number) => ({ '256': wilson(exact, 10), all: wilson(exact, 10) });
const measured: Measured = {
  qualities: new Map<string, Quality>([
    ['dense', { recall: share(10), books }],
    ['half', { recall: share(7), books: { ...books, perplexity: null, continuation_perplexity: 36 } }],
  ]),
  samples: new Map([
    ['dense', [sample(101), sample(301), sample(1001)]],
    ['half', [sample(51, { report }), sample(101, { report, decodeMsPerToken: 5 }), sample(501, { report })]],
  ]),
  timed: [question('a', '256'), question('b', '256'), question('c', '512')],
};

function results(): SettingResult[] {
  return ['dense', 'half', 'broken'].map((name) => ({
    name,
    pruning: null,
    failure: name === 'broken' ? 'no' : null,
    ...summarise(name, measured),
  }));
}

describe('costs', () => {
  it('are means of times and shares', () => {
    const cost = summariseCost(measured.samples.get('half')!.slice(0, 2));
    expect(cost).toMatchObject({
      items: 2,
      prompt_tokens: 100,
      ttft_ms: 76,
      kv_share: 0.3,
      kv_peak_share: 0.5,
    });
    expect(cost.computed_share).toBeCloseTo(0.7, 12);
    expect(cost.prefill_tokens_per_s).toBeCloseTo(100_000 / 75, 9);
    expect(cost.decode_tokens_per_s).toBeCloseTo(1000 / 7.5, 9);
  });

  it('say 1 where nothing was asked, and nothing where no cache policy reports', () => {
    expect(summariseCost([sample(1)])).toMatchObject({ kv_share: 1, kv_peak_share: 1, computed_share: 1 });
    expect(summariseCost([sample(1, { report: { ...report, kv: null } })]).kv_share).toBeNull();
    expect(summariseCost([sample(1, { report: { ...report, tokens: null } })]).computed_share).toBe(1);
  });

  it('are compared item by item', () => {
    const dense = [sample(101), sample(201), sample(401)];
    const own = [sample(51), sample(1001), sample(201, { pool: { peak: 500, end: 80 } })];
    expect(costRatios(own, dense).prefill_speedup).toBe(2);
    expect(costRatios(own, dense).pool_end).toBe(1);
    expect(costRatios(own.slice(2), dense.slice(2))).toMatchObject({ pool_peak: 0.5, pool_end: 0.1 });
  });
});

describe('results', () => {
  it('set each setting against dense', () => {
    const [dense, half, broken] = results();
    expect(dense!.ratios.quality).toEqual({
      lost_points: { recall: 0 },
      perplexity: 1,
      continuation_perplexity: 1,
    });
    expect(half!.ratios.quality!.lost_points['recall']).toBeCloseTo(30, 9);
    expect(half!.ratios.quality).toMatchObject({ perplexity: null, continuation_perplexity: 1.2 });
    expect(half!.ratios.cost['256']!.prefill_speedup).toBeCloseTo(1 / ((50 / 100 + 100 / 300) / 2), 9);
    expect(half!.ratios.cost['512']!.prefill_speedup).toBe(2);
    expect(half!.ratios.cost['256']!.decode_speedup).toBeCloseTo(1 / 0.75, 9);
    expect(broken).toMatchObject({ quality: null, cost: {}, ratios: { quality: null, cost: {} } });
  });

  it('survive JSON, so that nothing in them is undefined or no number', () => {
    expect(JSON.parse(JSON.stringify(results()))).toEqual(results());
  });

  it('make tables with a row a setting', () => {
    const tables = resultTables(results()).split('\n\n');
    expect(tables.map((part) => part.split('\n')[0])).toEqual([
      'Quality',
      '| setting | recall | perplexity | continuation |',
      'Cost at 256 (100 prompt tokens)',
      '| setting | TTFT ms | x | prefill tok/s | decode tok/s | x | computed | KV end | KV peak | pool end | pool peak |',
      'Cost at 512 (100 prompt tokens)',
      expect.any(String),
    ]);
    expect(tables[1]!.split('\n').slice(2)).toEqual([
      '| dense | 100.0 (72-100) | 20.00 | 30.00 |',
      '| half | 70.0 (40-89) | - | 36.00 |',
      '| broken (failed) | - | - | - |',
    ]);
    expect(tables[5]!.split('\n')[3]).toBe(
      '| half | 501 | 2.00 | 200 | 100.0 | 1.00 | 0.70 | 0.30 | 0.50 | 1.00 | 1.00 |',
    );
  });
});
