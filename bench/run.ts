/**
 * `npm run bench`: measures our engine and the peers that are installed, interleaved in one run, and prints ratios.
 * `--rounds 3 --only coppice,openvino --prefill 512,1024 --decode 1024 --no-streams --out FILE`, or
 * `--pruned --rounds 3 --only duo,fast,openvino --policies snapkv,h2o --prefill 4096,8192 --dense-every 6 --out FILE`;
 * see README.md.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { ensureCheckpoint } from './checkpoint.ts';
import {
  RESULTS_FOLDER,
  describeRun,
  findEngines,
  installed,
  measure,
  saveResult,
  warmUp,
} from './engines.ts';
import type { Engines } from './engines.ts';
import { benchPruned } from './pruned.ts';
import { median, parseCounts } from './prompts.ts';
import type { Measurement } from './prompts.ts';

/** Figures of one engine, in the units that people compare: rates up, sizes and times down. */
function figures(m: Measurement): Record<string, number> {
  const rates = Object.entries(m.prefill_ms).map(([n, ms]) => [
    `prefill ${n} tok/s`,
    (1000 * Number(n)) / ms,
  ]);
  const decode = Object.entries(m.decode_ms).map(([n, ms]) => [`decode @${n} tok/s`, 1000 / ms]);
  const streams =
    m.streams8 === null
      ? []
      : [
          ['8 streams tok/s', m.streams8.tps_end_to_end],
          ['8 streams, decoding, tok/s', m.streams8.tps_decode],
        ];
  return Object.fromEntries([
    ...rates,
    ...decode,
    ...streams,
    ['load ms', m.load_ms],
    ['first request ms', m.first_request_ms],
    ['peak memory MiB', m.peak_rss_mb],
  ]) as Record<string, number>;
}

/** Medians of all rounds; ratios are medians of the ratios within each round, since machines drift. */
function table(rounds: readonly Map<string, Measurement>[], names: readonly string[]): string {
  const of = (round: Map<string, Measurement>, name: string) => {
    const m = round.get(name);
    return m === undefined ? undefined : figures(m);
  };
  const keys = Object.keys(rounds.map((round) => of(round, names[0]!)).find((f) => f !== undefined) ?? {});
  const row = (cells: string[]) => `| ${cells.join(' | ')} |`;
  const number = (x: number) => (x >= 100 ? x.toFixed(0) : x.toFixed(1));
  const lines = [
    row(['', ...names, ...names.slice(1).map((n) => `${names[0]} / ${n}`)]),
    row(Array<string>(2 * names.length).fill('---')),
  ];
  for (const key of keys) {
    const values = names.map((name) => rounds.flatMap((round) => of(round, name)?.[key] ?? []));
    const ratios = names.slice(1).map((name) =>
      rounds.flatMap((round) => {
        const [ours, theirs] = [of(round, names[0]!)?.[key], of(round, name)?.[key]];
        return ours === undefined || theirs === undefined ? [] : [ours / theirs];
      }),
    );
    lines.push(
      row([
        key,
        ...values.map((v) =>
          v.length === 0 ? '' : `${number(median(v))} (${number(Math.min(...v))}-${number(Math.max(...v))})`,
        ),
        ...ratios.map((r) => (r.length === 0 ? '' : median(r).toFixed(2))),
      ]),
    );
  }
  return lines.join('\n');
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
    out: { type: 'string' },
    prefill: { type: 'string' },
    decode: { type: 'string' },
    'no-streams': { type: 'boolean' },
    pruned: { type: 'boolean', default: false },
    policies: { type: 'string' },
    'dense-every': { type: 'string' },
  },
});

function benchEngines({ coppice, openvino, llama }: Engines): void {
  const only = values.only?.split(',');
  const chosen = [coppice, openvino, ...llama].filter(({ name }) => only?.includes(name) ?? true);
  const present = installed(chosen);
  const options = [
    ...(values.prefill === undefined ? [] : ['--prefill', values.prefill]),
    ...(values.decode === undefined ? [] : ['--decode', values.decode]),
    ...(values['no-streams'] === true ? ['--no-streams'] : []),
  ];
  const rounds: Map<string, Measurement>[] = [];
  for (let round = 0; round < Number(values.rounds); round++) {
    const results = new Map<string, Measurement>();
    for (const engine of present) {
      const result = measure(engine, options);
      if (result !== null) results.set(engine.name, result);
      process.stderr.write(`round ${round + 1}: ${engine.name} ${result === null ? 'failed' : 'done'}\n`);
    }
    rounds.push(results);
  }
  const machine = describeRun(rounds.length);
  const names = present.map(({ name }) => name);
  process.stdout.write(`${machine}\n\n${table(rounds, names)}\n`);
  const out = values.out ?? path.join(RESULTS_FOLDER, 'latest.json');
  saveResult(out, { machine, rounds: rounds.map((round) => Object.fromEntries(round)) });
}

/** The flags of one mode mean nothing in the other. */
function refuseFlags(mode: string, flags: readonly (keyof typeof values)[]): void {
  const strange = flags.find((flag) => values[flag] !== undefined);
  if (strange !== undefined) throw new Error(`expected no --${strange} ${mode} --pruned, got one`);
}

const list = (text: string | undefined): string[] | undefined =>
  text?.split(',').filter((part) => part !== '');

if (values.pruned) refuseFlags('with', ['decode', 'no-streams']);
else refuseFlags('without', ['policies', 'dense-every']);
const engines = findEngines(ensureCheckpoint());
warmUp(engines.coppice);
if (values.pruned) {
  benchPruned(engines, {
    rounds: parseCounts('--rounds', values.rounds)[0]!,
    lengths: parseCounts('--prefill', values.prefill ?? '4096,8192'),
    only: list(values.only),
    policies: list(values.policies),
    denseEvery: parseCounts('--dense-every', values['dense-every'] ?? '6')[0]!,
    out: values.out,
  });
} else benchEngines(engines);
