/** Settings and options of `npm run eval`: names, defaults, and what is refused. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readOptions } from '../../eval/options.ts';
import { actsOnScoring } from '../../eval/quality.ts';
import { defaultSettings, readSettings } from '../../eval/settings.ts';
import { parsePruning, type ModelShape } from '../../src/policies/index.ts';

const layer = { queryHeads: 8, kvHeads: 4, hasMlp: true };
const shape: ModelShape = {
  layers: Array.from({ length: 6 }, () => layer),
  gates: Array.from({ length: 6 }, (_, i) => [0.1 * i, 0.2, 0.9, 1]),
};
const presets = { gentle: { summary: '', pruning: { kv: { policy: 'duo-attention', sparsity: 0.25 } } } };
const folder = mkdtempSync(join(tmpdir(), 'coppice-eval-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function settingsFile(content: unknown): string {
  const file = join(folder, 'settings.json');
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return file;
}

describe('settings', () => {
  it('come from the command line and from a file, by their names', () => {
    const lazy = { tokens: { policy: 'lazyllm', prefill_only: true } };
    const values = ['gentle', JSON.stringify(lazy)];
    const file = settingsFile([
      { name: 'both', pruning: { ...lazy, kv: 'duo-attention' } },
      { pruning: 'none' },
    ]);
    const settings = readSettings({ values, file }, presets, shape);
    expect(settings.map(({ name }) => name)).toEqual(['gentle', JSON.stringify(lazy), 'both', 'none']);
    expect(settings[0]!.choice).toMatchObject({ preset: 'gentle' });
    expect(Object.keys(settings[2]!.choice!.families)).toEqual(['tokens', 'kv']);
    expect(settings[1]!.pruning).toEqual(lazy);
  });

  it('are refused where they cannot be read or run', () => {
    const read = (values: string[], file: string | null = null) =>
      readSettings({ values, file }, presets, shape);
    expect(() => read(['harsh'])).toThrow('expected one of "none", "gentle", got "harsh"');
    expect(() => read(['{"kv":'])).toThrow("--pruning: expected a preset's name or JSON");
    expect(() => read(['{"kv":"nothing"}'])).toThrow('pruning.kv.policy');
    expect(() => read(['gentle', 'gentle'])).toThrow('got "gentle" twice');
    expect(() => read([], settingsFile([{ name: 'dense', pruning: 'gentle' }]))).toThrow('got "dense" twice');
    expect(() => read([], settingsFile([{ named: 'x', pruning: 'gentle' }]))).toThrow('expected a JSON list');
    expect(() => read([], join(folder, 'absent.json'))).toThrow('absent.json');
  });

  it('cover at least eight by default; what cannot run is told', () => {
    const told: string[] = [];
    const settings = defaultSettings(presets, shape, (line) => told.push(line));
    expect(settings.length).toBeGreaterThanOrEqual(8);
    expect(new Set(settings.map(({ name }) => name)).size).toBe(settings.length);
    // These presets are not among the two that were given.
    expect(told.filter((line) => /balanced|fast/.test(line)).length).toBe(2);
    const withoutPattern = defaultSettings(presets, { ...shape, gates: null }, (line) => told.push(line));
    expect(withoutPattern.map(({ name }) => name).join()).not.toContain('duo');
    expect(told.some((line) => line.includes('duo-attention 50 %'))).toBe(true);
  });
});

it('scores prompts only where the policies act on every row of them', () => {
  const acts = (pruning: unknown) => actsOnScoring(parsePruning(pruning, presets, shape), shape);
  const duo = { policy: 'duo-attention', sparsity: 0.5 };
  const dropping = { policy: 'attention-drop', drop: [3] };
  expect([null, 'none', { kv: duo }, { layers: dropping }, { kv: duo, layers: dropping }].map(acts)).toEqual(
    Array(5).fill(true),
  );
  const others = [
    { tokens: 'lazyllm' },
    { tokens: 'lazyllm', kv: duo },
    { kv: { ...duo, prefill: 'exact' } },
    { kv: { policy: 'snapkv', keep: 0.5 } },
    { kv: { policy: 'snapkv', keep: 0.5 }, layers: dropping },
    { kv: 'quest' },
  ];
  expect(others.map(acts)).toEqual(others.map(() => false));
});

describe('options', () => {
  it('have defaults, and take every flag', () => {
    expect(readOptions([])).toMatchObject({
      precision: 'int8',
      threads: 2,
      pruning: [],
      settingsFile: null,
      sets: ['recall', 'turns', 'long', 'copy', 'books'],
      limit: Infinity,
      costItems: 3,
    });
    const line =
      '--model m --precision fp32 --threads 1 --pruning a --pruning b --settings f --sets copy,books --limit 4 --cost-items 0 --out o';
    expect(readOptions(line.split(' '))).toEqual({
      model: 'm',
      precision: 'fp32',
      threads: 1,
      pruning: ['a', 'b'],
      settingsFile: 'f',
      sets: ['copy', 'books'],
      limit: 4,
      costItems: 0,
      out: 'o',
    });
  });

  it.each([
    ['--precision int4', '--precision: expected int8 or fp32, got int4'],
    ['--sets recall,sight', '--sets: expected some of'],
    ['--limit 0', '--limit: expected a whole number of at least 1, got "0"'],
    ['--cost-items 1.5', '--cost-items'],
    ['--prunning x', '--prunning'],
  ])('refuse %s', (line, message) => {
    expect(() => readOptions(line.split(' '))).toThrow(message);
  });
});
