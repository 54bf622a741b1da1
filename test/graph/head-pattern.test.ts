/** DuoAttention pattern files: the published ones, round trips, and files that are not what they should be. */
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Architecture } from '../../src/graph/architecture.ts';
import { findHeadPattern, readHeadPattern, writeHeadPattern } from '../../src/graph/head-pattern.ts';
import { startupMessage, tempDir } from './checkpoint-files.ts';

const PATTERNS = join(import.meta.dirname, '../fixtures/duo/patterns');
const GATES = 'full_attention_heads.tsv';

interface Masks {
  readonly shape: [number, number];
  readonly sink: number;
  readonly recent: number;
  readonly mean_gate: number;
  readonly threshold_half_full: string[];
  readonly official_noise_seed: number;
  readonly official_noise: number[][];
  readonly official_sparsify: { numpy_legacy_seed: number; sparsity: number; full_heads: string[] }[];
}

/** As much of an architecture as patterns depend on; null = a layer without attention. */
function architecture(kvHeads: readonly (number | null)[], configured = 4): Architecture {
  const layers = kvHeads.map((count) => ({ attention: count === null ? null : { kvHeads: count } }));
  return { config: { kvHeads: configured }, layers } as unknown as Architecture;
}

/** Linear interpolation between order statistics, as numpy's default. */
function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  const t = at - Math.floor(at);
  return t < 0.5 ? low + (high - low) * t : high - (high - low) * (1 - t);
}

/** The authors' way from gates to heads that keep everything: noise against ties, a quantile as the threshold. */
function officialFullHeads(gates: readonly (readonly number[])[], noise: number[][], sparsity: number) {
  const noisy = gates.map((row, layer) => row.map((gate, head) => gate + noise[layer]![head]!));
  const threshold = sparsity >= 1 ? 2 : sparsity <= 0 ? -1 : quantile(noisy.flat(), sparsity);
  return noisy.map((row) => row.map((gate) => Number(gate >= threshold)).join(''));
}

describe.each(readdirSync(PATTERNS))('published pattern of %s', (name) => {
  const folder = join(PATTERNS, name);
  const masks = JSON.parse(readFileSync(join(folder, 'masks.json'), 'utf8')) as Masks;
  const [numLayers, kvHeads] = masks.shape;
  const model = architecture(Array<number>(numLayers).fill(kvHeads), kvHeads);

  it('is read, clipped to [0, 1]', () => {
    const { gates, sink, recent } = readHeadPattern(folder, model)!;
    expect({ sink, recent }).toEqual({ sink: masks.sink, recent: masks.recent });
    expect(gates.map((row) => row.length)).toEqual(Array<number>(numLayers).fill(kvHeads));
    const flat = gates.flat();
    expect(Math.min(...flat)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...flat)).toBeLessThanOrEqual(1);
    expect(flat.reduce((a, b) => a + b) / flat.length).toBeCloseTo(masks.mean_gate, 12);
    const atLeastHalf = gates.map((row) => row.map((gate) => Number(gate >= 0.5)).join(''));
    expect(atLeastHalf).toEqual(masks.threshold_half_full);
  });

  it('gives the same heads as the authors’ own code with the same noise', () => {
    const { gates } = readHeadPattern(folder, model)!;
    const cases = masks.official_sparsify.filter(
      (entry) => entry.numpy_legacy_seed === masks.official_noise_seed,
    );
    expect(cases.length).toBeGreaterThan(4);
    for (const { sparsity, full_heads: expected } of cases)
      expect(officialFullHeads(gates, masks.official_noise, sparsity)).toEqual(expected);
  });

  it('is written as it was read', () => {
    const target = join(tempDir(), 'pattern');
    writeHeadPattern(target, model, readHeadPattern(folder, model)!, {});
    const [published, written] = [folder, target].map((dir) =>
      readFileSync(join(dir, GATES), 'utf8')
        .trimEnd()
        .split(/[\t\n]/),
    );
    const kept = published!.flatMap((field, i) => (Number(field) >= 0 && Number(field) <= 1 ? [i] : []));
    expect(kept.length).toBeGreaterThan(0.6 * numLayers * kvHeads);
    // Of two equally near decimals numpy takes the even one, JavaScript the larger: the last digit may differ.
    const digits = (field: string | undefined) => field?.replace(/\d(?=e)/, '');
    expect(kept.map((i) => digits(written![i]))).toEqual(kept.map((i) => digits(published![i])));
  });
});

describe('any pattern', () => {
  it('comes back as it was written', () => {
    const gate = fc.double({ min: 0, max: 1, noNaN: true });
    const layer = fc.oneof(fc.constant(null), fc.integer({ min: 1, max: 5 }));
    const shapes = fc.array(layer, { minLength: 1, maxLength: 6 });
    const cases = shapes.chain((counts) => {
      const rows = counts.map((count) => fc.array(gate, { minLength: count ?? 0, maxLength: count ?? 0 }));
      return fc.record({ counts: fc.constant(counts), gates: fc.tuple(...rows) });
    });
    const folder = tempDir();
    fc.assert(
      fc.property(cases, ({ counts, gates }) => {
        const model = architecture(counts, 3);
        writeHeadPattern(folder, model, { gates, sink: 16, recent: 64 }, { method: 'test' });
        expect(readHeadPattern(folder, model)).toEqual({ gates, sink: 16, recent: 64 });
      }),
      { numRuns: 50 },
    );
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object;
    expect(config).toEqual({ sink_size: 16, recent_size: 64, method: 'test' });
  });

  it('has a full row of zeros for a layer without attention, so that numpy can read it', () => {
    const folder = tempDir();
    const pattern = { gates: [[0.5, 1], [], [0, 0.25]], sink: 1, recent: 2 };
    writeHeadPattern(folder, architecture([2, null, 2], 2), pattern, {});
    expect(readFileSync(join(folder, GATES), 'utf8')).toBe(
      [
        '5.000000000000000000e-01\t1.000000000000000000e+00\n',
        '0.000000000000000000e+00\t0.000000000000000000e+00\n',
        '0.000000000000000000e+00\t2.500000000000000000e-01\n',
      ].join(''),
    );
  });

  it('cannot be written into a folder that cannot be made', () => {
    const folder = join(tempDir(), 'no', 'such');
    const pattern = { gates: [[1]], sink: 1, recent: 1 };
    const write = () => {
      writeHeadPattern(folder, architecture([1]), pattern, {});
    };
    expect(startupMessage(write)).toContain(folder);
  });
});

describe('files that cannot be used', () => {
  const model = architecture([2, 2]);
  const config = { sink_size: 16, recent_size: 64 };

  function folderWith(gates: string | null, configText: string | null = JSON.stringify(config)): string {
    const folder = tempDir();
    if (gates !== null) writeFileSync(join(folder, GATES), gates);
    if (configText !== null) writeFileSync(join(folder, 'config.json'), configText);
    return folder;
  }

  it('are absent: there is no pattern', () => {
    expect(readHeadPattern(join(tempDir(), 'none'), model)).toBeNull();
    expect(readHeadPattern(folderWith(null), model)).toBeNull();
    expect(findHeadPattern(folderWith(null))).toBeNull();
    const folder = folderWith('1\t1\n1\t1\n');
    expect(findHeadPattern(folder)).toBe(join(folder, GATES));
  });

  it.each([
    ['too few lines', '1\t1\n', /expected 2 lines, one a layer, got 1/],
    ['too many lines', '1\t1\n1\t1\n1\t1\n', /expected 2 lines, one a layer, got 3/],
    ['an empty file', '', /expected 2 lines/],
    ['too few columns', '1\t1\n1\n', /line 2: expected 2 gates, one a KV head, got 1/],
    ['too many columns', '1\t1\t1\n1\t1\n', /line 1: expected 2 gates, one a KV head, got 3/],
    ['not a number', '1\tnan\n1\t1\n', /line 1: expected a finite number, got "nan"/],
    ['infinity', '1\t1\ninf\t1\n', /line 2: expected a finite number, got "inf"/],
    ['a number too large', '1\t1e999\n1\t1\n', /expected a finite number, got "1e999"/],
    ['hexadecimal', '1\t0x1\n1\t1\n', /got "0x1"/],
    ['an empty field', '1\t\n1\t1\n', /line 1: expected a finite number, got ""/],
    ['words', 'head\thead\n1\t1\n', /got "head"/],
  ])('%s', (_what, gates, pattern) => {
    const message = startupMessage(() => readHeadPattern(folderWith(gates), model));
    expect(message).toContain(GATES);
    expect(message).toMatch(pattern);
  });

  it.each([
    ['no config.json', null, /expected a file, got none/],
    ['half a config.json', '{"sink_size": 1', /expected JSON/],
    ['no sizes', '{}', /sink_size/],
    ['a negative size', '{"sink_size": -1, "recent_size": 64}', /sink_size/],
    ['a size that is no number', '{"sink_size": 16, "recent_size": "many"}', /recent_size/],
  ])('%s', (_what, text, pattern) => {
    const message = startupMessage(() => readHeadPattern(folderWith('1\t1\n1\t1\n', text), model));
    expect(message).toContain('config.json');
    expect(message).toMatch(pattern);
  });

  it('a file too large to read, a folder in place of a file', () => {
    const folder = folderWith('1\t1\n1\t1\n');
    truncateSync(join(folder, GATES), 2 ** 32);
    expect(startupMessage(() => readHeadPattern(folder, model))).toMatch(/at most \d+ bytes, got 4294967296/);
    const other = tempDir();
    mkdirSync(join(other, GATES));
    expect(startupMessage(() => readHeadPattern(other, model))).toContain('expected a file');
  });
});
