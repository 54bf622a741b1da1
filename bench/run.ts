/**
 * `npm run bench`: measures our engine and the peers that are installed, interleaved in one run, and prints ratios.
 * `--rounds 3 --only coppice,openvino --prefill 512,1024 --decode 1024 --no-streams --out FILE`; see README.md.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { benchFolder, ensureCheckpoint } from './checkpoint.ts';
import { median } from './prompts.ts';
import type { Measurement } from './prompts.ts';

interface Engine {
  readonly name: string;
  /** Program and arguments before the options. */
  readonly command: readonly string[];
  readonly model: string;
  /** Must exist, or the engine is left out. */
  readonly needs: readonly string[];
}

const here = path.dirname(fileURLToPath(import.meta.url));
const tsx = path.join(here, '..', 'node_modules', '.bin', 'tsx');
const python = path.join(here, 'peers', '.venv', 'run', 'bin', 'python');

function engines(checkpoint: string): Engine[] {
  const files = benchFolder();
  const llama = (quantisation: string): Engine => ({
    name: `llama-${quantisation}`,
    command: [tsx, path.join(here, 'peers', 'llama-cpp.ts')],
    model: path.join(files, `${quantisation}.gguf`),
    needs: [
      path.join(here, 'peers', 'node_modules', 'node-llama-cpp'),
      path.join(files, `${quantisation}.gguf`),
    ],
  });
  return [
    { name: 'coppice', command: [tsx, path.join(here, 'coppice.ts')], model: checkpoint, needs: [] },
    {
      name: 'openvino',
      command: [python, '-B', path.join(here, 'peers', 'openvino-genai.py')],
      model: path.join(files, 'openvino-int8'),
      needs: [python, path.join(files, 'openvino-int8')],
    },
    llama('q4_0'),
    llama('q8_0'),
  ];
}

/** One fresh process; its last line on stdout is the measurement. */
function measure(engine: Engine, options: readonly string[]): Measurement | null {
  const [program = '', ...rest] = engine.command;
  const run = spawnSync(program, [...rest, '--model', engine.model, ...options], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const line = run.stdout.trim().split('\n').at(-1) ?? '';
  if (run.status !== 0 || line === '') {
    process.stderr.write(`${engine.name} failed (exit ${run.status}):\n${run.stderr.slice(-2000)}\n`);
    return null;
  }
  return JSON.parse(line) as Measurement;
}

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
    'no-streams': { type: 'boolean', default: false },
  },
});
const checkpoint = ensureCheckpoint();
const only = values.only?.split(',');
const chosen = engines(checkpoint).filter((engine) => only?.includes(engine.name) ?? true);
const present = chosen.filter((engine) => engine.needs.every((file) => fs.existsSync(file)));
const missing = chosen.filter((engine) => !present.includes(engine)).map((engine) => engine.name);
if (missing.length > 0)
  process.stderr.write(`not installed, left out (see bench/peers/setup): ${missing.join(', ')}\n`);
const options = [
  ...(values.prefill === undefined ? [] : ['--prefill', values.prefill]),
  ...(values.decode === undefined ? [] : ['--decode', values.decode]),
  ...(values['no-streams'] ? ['--no-streams'] : []),
];
// Converts the checkpoint once, so that no round measures it.
measure(engines(checkpoint)[0]!, ['--prefill', '64', '--decode', '64', '--no-streams']);

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
const cpu = os.cpus()[0]?.model ?? 'unknown processor';
const head = `${os.cpus().length} x ${cpu}, node ${process.version}, ${rounds.length} rounds, ${new Date().toISOString().slice(0, 10)}`;
process.stdout.write(
  `${head}\n\n${table(
    rounds,
    present.map((engine) => engine.name),
  )}\n`,
);
const out = values.out ?? path.join(here, 'results', 'latest.json');
fs.mkdirSync(path.dirname(out), { recursive: true });
fs.writeFileSync(
  out,
  JSON.stringify({ machine: head, rounds: rounds.map((round) => Object.fromEntries(round)) }, null, 1),
);
