/** Compares logits with Hugging Face transformers (fp32) and int8 with fp32; renews the tables of docs/parity.md. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { format, resolveConfig } from 'prettier';
import { readModelConfig } from '../src/graph/model-config.ts';
import { Tokenizer } from '../src/text/tokenizer.ts';
import type { Checkpoint } from '../test/model/drive.ts';
import {
  argmax,
  checkpoints,
  greedy,
  greedyOf,
  load,
  logProbability,
  maxDifference,
  NOVEL,
  RECALL_DIR,
  scorePrompt,
} from '../test/model/drive.ts';

const DOCUMENT = new URL('../docs/parity.md', import.meta.url);
/** Everything below this line of the document is made here. */
const MARKER = '<!-- The rest is written by bench/parity.ts. -->\n';
/** Tokens that a story model goes on from each prompt, to have a text of its own. */
const STORY_TOKENS = 200;
const THREADS = os.availableParallelism();

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const rule = head.map((_, i) => (i === 0 ? '---' : '---:'));
  return [head, rule, ...rows].map(line).join('\n');
}

async function referenceRow({ name, dir, cases }: Checkpoint, cacheDir: string): Promise<string[]> {
  const model = await load(dir, 'fp32', cacheDir, THREADS);
  let difference = 0;
  let numEqual = 0;
  let numTokens = 0;
  for (const reference of cases) {
    const logits = (await scorePrompt(model, reference.input_ids)).slice(-4).flatMap((row) => [...row]);
    difference = Math.max(difference, maxDifference(logits, reference.last4_logits.flat()));
    const expected = greedyOf(reference);
    const ids = await greedy(model, reference.input_ids, expected.length);
    numEqual += expected.filter((id, i) => id === ids[i]).length;
    numTokens += expected.length;
  }
  await model.close();
  const prompts = cases.map(({ input_ids }) => input_ids.length).join(', ');
  return [name, prompts, difference.toExponential(1), `${numEqual} / ${numTokens}`];
}

interface Comparison {
  numLogits: number;
  sum: number;
  max: number;
  numRows: number;
  numAgreeing: number;
  numPredicted: number;
  /** Sums of -ln p of the text's tokens. */
  loss: { fp32: number; int8: number };
}

function compareRows(
  total: Comparison,
  ids: readonly number[],
  fp32: readonly Float32Array[],
  int8: readonly Float32Array[],
): void {
  for (const [row, exact] of fp32.entries()) {
    const rounded = int8[row]!;
    total.max = Math.max(total.max, maxDifference(exact, rounded));
    total.sum += exact.reduce((sum, logit, i) => sum + Math.abs(logit - rounded[i]!), 0);
    total.numLogits += exact.length;
    total.numRows++;
    if (argmax(exact) === argmax(rounded)) total.numAgreeing++;
    const next = ids[row + 1];
    if (next === undefined) continue;
    total.numPredicted++;
    total.loss.fp32 -= logProbability(exact, next);
    total.loss.int8 -= logProbability(rounded, next);
  }
}

/** @param textsOf token ids of the texts to score, made with the fp32 model */
async function int8Row(
  name: string,
  dir: string,
  cacheDir: string,
  textsOf: (model: Awaited<ReturnType<typeof load>>) => Promise<number[][]>,
): Promise<string[]> {
  const fp32 = await load(dir, 'fp32', cacheDir, THREADS);
  const int8 = await load(dir, 'int8', cacheDir, THREADS);
  const total: Comparison = {
    numLogits: 0,
    sum: 0,
    max: 0,
    numRows: 0,
    numAgreeing: 0,
    numPredicted: 0,
    loss: { fp32: 0, int8: 0 },
  };
  for (const ids of await textsOf(fp32)) {
    compareRows(total, ids, await scorePrompt(fp32, ids), await scorePrompt(int8, ids));
  }
  await fp32.close();
  await int8.close();
  const before = Math.exp(total.loss.fp32 / total.numPredicted);
  const after = Math.exp(total.loss.int8 / total.numPredicted);
  const change = 100 * (after / before - 1);
  return [
    name,
    String(total.numRows),
    total.max.toFixed(3),
    (total.sum / total.numLogits).toFixed(4),
    `${((100 * total.numAgreeing) / total.numRows).toFixed(2)} %`,
    `${before.toFixed(4)} → ${after.toFixed(4)}`,
    `${change >= 0 ? '+' : ''}${change.toFixed(3)} %`,
  ];
}

async function stories({ cases }: Checkpoint, model: Awaited<ReturnType<typeof load>>): Promise<number[][]> {
  const texts: number[][] = [];
  for (const { input_ids } of cases) {
    texts.push([...input_ids, ...(await greedy(model, input_ids, STORY_TOKENS))]);
  }
  return texts;
}

/** The passage behind the token that begins every text of the model. */
function novel(): number[] {
  const raw = JSON.parse(fs.readFileSync(path.join(RECALL_DIR, 'config.json'), 'utf8')) as {
    bos_token_id: number;
  };
  const ids = [raw.bos_token_id, ...Tokenizer.load(RECALL_DIR).encodePlain(fs.readFileSync(NOVEL, 'utf8'))];
  return ids.slice(0, readModelConfig(RECALL_DIR).contextLength);
}

function conditions(): string {
  const version = (name: string): string => {
    const file = new URL(`../node_modules/${name}/package.json`, import.meta.url);
    return (JSON.parse(fs.readFileSync(file, 'utf8')) as { version: string }).version;
  };
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const cpu = os.cpus()[0]?.model ?? 'unknown processor';
  return `Commit ${commit}, ${cpu}, ${THREADS} threads, Node ${process.version}, onnxruntime-node ${version('onnxruntime-node')}.`;
}

async function makeTables(cacheDir: string): Promise<string> {
  const all = [...checkpoints('arch'), ...checkpoints('models')];
  const reference: string[][] = [];
  for (const checkpoint of all) reference.push(await referenceRow(checkpoint, cacheDir));
  const quantised = [await int8Row('coppice-recall', RECALL_DIR, cacheDir, () => Promise.resolve([novel()]))];
  for (const checkpoint of checkpoints('models')) {
    const { name, dir } = checkpoint;
    quantised.push(await int8Row(name, dir, cacheDir, (model) => stories(checkpoint, model)));
  }
  return [
    conditions(),
    '## fp32 against the reference',
    table(['checkpoint', 'tokens of its prompts', 'max abs difference', 'greedy tokens equal'], reference),
    '## int8 against our fp32',
    table(
      [
        'model',
        'positions',
        'max abs difference',
        'mean abs difference',
        'same top token',
        'perplexity',
        'change',
      ],
      quantised,
    ),
    '',
  ].join('\n\n');
}

const cacheDir = fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-parity-'));
try {
  const tables = await makeTables(cacheDir);
  const [text = ''] = fs.readFileSync(DOCUMENT, 'utf8').split(MARKER);
  const config = await resolveConfig(DOCUMENT);
  fs.writeFileSync(DOCUMENT, await format(`${text}${MARKER}\n${tables}`, { ...config, parser: 'markdown' }));
  process.stdout.write(tables);
} finally {
  fs.rmSync(cacheDir, { recursive: true, force: true });
}
