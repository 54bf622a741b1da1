/** Pruned rows: what our engine saves under each setting, against its own dense runs and OpenVINO's in the same round. */
import path from 'node:path';
import { MODULES, createPolicies } from '../src/policies/index.ts';
import { policyShape } from './checkpoint.ts';
import { RESULTS_FOLDER, describeRun, installed, measure, saveResult, type Engines } from './engines.ts';
import { DENSE, PEERS, prunedTables, type Run } from './pruned-table.ts';
import { WORK } from './prompts.ts';

/** Of the evicting policies. */
const KEEPS = [0.5, 0.25];

export interface PrunedOptions {
  readonly rounds: number;
  /** Prompt lengths. */
  readonly lengths: readonly number[];
  /** Names of rows, or of an engine for all of its rows; undefined = all. */
  readonly only: readonly string[] | undefined;
  /** Evicting policies; undefined = all. */
  readonly policies: readonly string[] | undefined;
  /** Our rows between two dense runs. */
  readonly denseEvery: number;
  readonly out: string | undefined;
}

interface Row {
  readonly name: string;
  readonly engine: 'coppice' | 'openvino';
  /** As in a request; absent for peers. */
  readonly pruning?: unknown;
  readonly options: readonly string[];
}

function ours(name: string, pruning: unknown): Row {
  const text = typeof pruning === 'string' ? pruning : JSON.stringify(pruning);
  return { name, engine: 'coppice', pruning, options: pruning === null ? [] : ['--pruning', text] };
}

const DENSE_ROW = ours(DENSE, null);

function evictingPolicies(): string[] {
  const shape = policyShape();
  const evicts = (policy: string, options: unknown): boolean =>
    createPolicies({ preset: null, families: { kv: { policy, options } } }, shape).kv?.kind === 'evict';
  return MODULES.filter(({ family }) => family === 'kv').flatMap(({ name, options }) => {
    const parsed = options.safeParse({});
    return parsed.success && evicts(name, parsed.data) ? [name] : [];
  });
}

/** What is compared with the peers stands next to them, so that little time lies between. */
function allRows(policies: readonly string[]): Row[] {
  const tokens = { policy: 'lazyllm', prefill_only: true };
  const kv = { policy: 'duo-attention', sparsity: 0.5 };
  const peer = (name: string, ...options: string[]): Row => ({ name, engine: 'openvino', options });
  return [
    ours('lazyllm', { tokens: 'lazyllm' }),
    ours('lazyllm-prefill', { tokens }),
    ours('duo', { kv }),
    ours('both', { tokens, kv }),
    ours('balanced', 'balanced'),
    ours('fast', 'fast'),
    peer(PEERS.dense),
    peer(PEERS.sparse, '--sparse', 'trishape'),
    peer(PEERS.evicting, '--evict', '1024'),
    ...policies.flatMap((policy) =>
      KEEPS.map((keep) => ours(`${policy}-${100 * keep}`, { kv: { policy, keep } })),
    ),
  ];
}

/** @throws for a name that is none of `known` */
function assertKnown(flag: string, names: readonly string[], known: readonly string[]): void {
  const strange = names.find((name) => !known.includes(name));
  if (strange !== undefined) throw new Error(`expected ${flag} among ${known.join(', ')}, got "${strange}"`);
}

/** The rows without the dense one, which goes with all of ours. */
function chooseRows({ only, policies }: PrunedOptions): Row[] {
  const known = evictingPolicies();
  assertKnown('--policies', policies ?? [], known);
  const rows = allRows(policies ?? known);
  const names = rows.flatMap(({ name, engine }) => [engine, name]);
  assertKnown('--only', only ?? [], [...new Set([...names, DENSE])]);
  return rows.filter(
    ({ name, engine }) => only === undefined || [name, engine].some((n) => only.includes(n)),
  );
}

/** A dense run before the first of our rows and again after every so many: machines drift within a round, too. */
function withDense(rows: readonly Row[], every: number): Row[] {
  let count = 0;
  const order = rows.flatMap((row) =>
    row.engine === 'coppice' && count++ % every === 0 ? [DENSE_ROW, row] : [row],
  );
  return order.includes(DENSE_ROW) ? order : [DENSE_ROW, ...order];
}

/** Measures all rows, length by length, and prints the tables; the file is there from the first run on. */
export function benchPruned(engines: Engines, options: PrunedOptions): void {
  const { rounds, lengths } = options;
  const chosen = chooseRows(options);
  const here = installed(
    [engines.coppice, engines.openvino].filter(({ name }) => chosen.some((row) => row.engine === name)),
  );
  const rows = chosen.filter((row) => here.some(({ name }) => name === row.engine));
  const order = withDense(rows, options.denseEvery);
  const out = options.out ?? path.join(RESULTS_FOLDER, 'latest-pruned.json');
  const settings = Object.fromEntries([DENSE_ROW, ...rows].map(({ name, pruning }) => [name, pruning]));
  const runs: Run[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const length of lengths) {
      for (const { name, engine, options: own } of order) {
        const work = ['--prefill', `${length}`, '--decode', `${length}`, '--no-streams'];
        const measurement = measure(engines[engine], [...work, ...own]);
        runs.push({ round, length, name, measurement });
        saveResult(out, { machine: describeRun(round), decode_steps: WORK.decodeSteps, settings, runs });
        const end = measurement === null ? 'failed' : 'done';
        process.stderr.write(`round ${round}, ${length} tokens: ${name} ${end}\n`);
      }
    }
  }
  const names = [DENSE, ...rows.map(({ name }) => name)];
  process.stdout.write(`${describeRun(rounds)}\n\n${prunedTables(runs, names)}\n`);
}
