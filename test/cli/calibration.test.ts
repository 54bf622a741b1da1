/** `coppice heads` and `coppice layers` as a user meets them. */
import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parsePruning } from '../../src/policies/index.ts';

const ROOT = join(import.meta.dirname, '../..');
const MAIN = join(ROOT, 'dist/main.js');
const STORIES = join(ROOT, 'test/fixtures/models/stories260K');
const GATES = 'full_attention_heads.tsv';

let folder: string;
let model: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'coppice-calibration-'));
  model = join(folder, 'model');
  cpSync(STORIES, model, { recursive: true });
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const { PATH = '', HOME = '' } = process.env;
  const env = { PATH, HOME, COPPICE_CACHE_DIR: join(folder, 'cache'), COPPICE_MODEL: model };
  return new Promise((resolve) => {
    execFile(process.execPath, [MAIN, ...args], { env, cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

async function expectMistake(args: string[], pattern: RegExp): Promise<void> {
  const { code, stdout, stderr } = await run(...args);
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toMatch(/^coppice: [^\n]+\n$/);
  expect(stderr).toMatch(pattern);
}

const readGates = (dir: string): number[][] =>
  readFileSync(join(dir, GATES), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => line.split('\t').map(Number));

describe('heads', () => {
  test('writes a pattern into the model’s folder, once, and loads models that have one', async () => {
    const own = join(model, 'duo-attention');
    const { code, stdout, stderr } = await run('heads', '--tokens', '600');
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${own}\n` });
    expect(stderr).toMatch(/passage 1 of \d/);
    expect(stderr).toMatch(/\n {4}4( {2}0\.\d{4}){4}\n$/);
    const gates = readGates(own);
    expect(gates.map((row) => row.length)).toEqual([4, 4, 4, 4, 4]);
    expect(gates.flat().every((gate) => gate > 0 && gate < 1)).toBe(true);
    const config = JSON.parse(readFileSync(join(own, 'config.json'), 'utf8')) as object;
    expect(config).toMatchObject({
      sink_size: 16,
      recent_size: 64,
      method: 'area',
      tokens: 600,
      text: 'bundled',
    });

    await expectMistake(['heads'], /expected --force to replace .*full_attention_heads\.tsv/);
    const text = join(folder, 'text.txt');
    writeFileSync(text, 'Once upon a time there was a little girl who liked to dig. '.repeat(20));
    expect((await run('heads', '--force', '--text', text)).code).toBe(0);
    expect(readGates(own)).not.toEqual(gates);
    const elsewhere = await run('heads', '--tokens', '600', '--out', 'other');
    expect(elsewhere.stdout).toBe(`${join(folder, 'other')}\n`);
    expect(readGates(join(folder, 'other'))).toEqual(gates);
  });

  test('by the attention of a repetition, for passages of which streaming heads would not hold all', async () => {
    const flags = ['heads', '--method', 'kvzip', '--out', 'repeated'];
    const { code, stderr } = await run(...flags, '--tokens', '300');
    expect({ code, passages: /passage 1 of (\d)/.exec(stderr)?.[1] }).toEqual({ code: 0, passages: '2' });
    const gates = readGates(join(folder, 'repeated'));
    expect(gates.map((row) => row.length)).toEqual([4, 4, 4, 4, 4]);
    expect(gates.flat().every((gate) => gate > 0 && gate <= 1)).toBe(true);
    const config = JSON.parse(readFileSync(join(folder, 'repeated', 'config.json'), 'utf8')) as object;
    expect(config).toMatchObject({ sink_size: 16, recent_size: 64, method: 'kvzip', tokens: 300 });
    expect(config).not.toHaveProperty('positions');

    const short = await run(...flags, '--force', '--tokens', '79');
    expect(short.code).toBe(1);
    expect(short.stderr).toMatch(
      /--method kvzip: expected passages of more than 80 tokens, got one of 80\n$/,
    );
    expect(readGates(join(folder, 'repeated'))).toEqual(gates);
  });

  test.each<[string[], RegExp]>([
    [['--method', 'guess'], /Allowed choices are area, kvzip/],
    [['--tokens', 'many'], /--tokens: expected a whole number above 0, got "many"/],
    [['--tokens', '0'], /--tokens: expected a whole number above 0, got "0"/],
    [['--tokens', '10000000'], /expected at least 10000000 tokens in the bundled text, got \d+/],
    [['--text', '/no/such/text'], /\/no\/such\/text/],
    [['--model', '/no/such/model'], /\/no\/such\/model not found/],
  ])('refuses %j before it loads anything', async (args, pattern) => {
    await expectMistake(['heads', '--out', join(folder, 'refused'), ...args], pattern);
    expect(existsSync(join(folder, 'refused'))).toBe(false);
  });

  test('refuses an empty text and a folder that cannot be made', async () => {
    const empty = join(folder, 'empty.txt');
    writeFileSync(empty, '');
    await expectMistake(
      ['heads', '--out', 'refused', '--text', empty],
      /at least 1 tokens in .*empty\.txt, got 0/,
    );
    await expectMistake(
      ['heads', '--out', join(folder, 'no', 'such')],
      /cannot write the pattern to .*no\/such: .* is no folder/,
    );
  });
});

describe('layers', () => {
  const shape = {
    layers: Array.from({ length: 5 }, () => ({ queryHeads: 8, kvHeads: 4, hasMlp: true })),
    gates: null,
  };
  const parse = (text: string) => parsePruning(JSON.parse(text), {}, shape)?.families.layers;

  test('similarity: the value to paste, and the scores that it comes from', async () => {
    const { code, stdout, stderr } = await run('layers', '--tokens', '300', '--drop', '2');
    expect(code).toBe(0);
    const { policy, options } = parse(stdout)!;
    expect(policy).toBe('attention-drop');
    const { drop } = options as { drop: number[] };
    const scores = [...stderr.matchAll(/^ {4}(\d) {2}(0\.\d+)( {2}drop)?$/gm)];
    expect(scores).toHaveLength(5);
    const byScore = scores.toSorted((a, b) => Number(b[2]) - Number(a[2])).map((match) => Number(match[1]));
    expect(drop).toEqual(byScore.slice(0, 2).sort((a, b) => a - b));
    expect(scores.filter((match) => match[3] !== undefined).map((match) => Number(match[1]))).toEqual(drop);
  });

  test('divergence: both kinds of blocks, and how much each step costs', async () => {
    const { code, stdout, stderr } = await run(
      'layers',
      '--measure',
      'divergence',
      '--tokens',
      '60',
      '--drop',
      '3',
    );
    expect(code).toBe(0);
    const { policy, options } = parse(stdout)!;
    expect(policy).toBe('finercut');
    const { attention, mlp } = options as { attention: number[]; mlp: number[] };
    const steps = [...stderr.matchAll(/^(attention|mlp) +(\d) {2}(\S+)$/gm)];
    expect(steps).toHaveLength(3);
    const of = (part: string) => steps.filter((step) => step[1] === part).map((step) => Number(step[2]));
    expect([attention, mlp]).toEqual([of('attention').sort(), of('mlp').sort()]);
    for (const step of steps) expect(Number(step[3])).toBeGreaterThan(0);
  });

  test('drops a quarter unless told otherwise', async () => {
    const { stdout } = await run('layers', '--tokens', '50');
    expect((parse(stdout)!.options as { drop: number[] }).drop).toHaveLength(1);
  });

  test('mistakes', async () => {
    await expectMistake(['layers', '--measure', 'guess'], /Allowed choices are similarity, divergence/);
    await expectMistake(['layers', '--drop', '-1'], /--drop: expected a whole number above 0, got "-1"/);
    await expectMistake(['layers', '--drop', '6', '--tokens', '20'], /--drop: .*from 1 to 5, got "6"/);
  });
});
