/** The pruned rows as Markdown: what each costs, its ratios to the dense run, and those to the peers. */
import { median } from './prompts.ts';
import type { Measurement, PeakAndEnd } from './prompts.ts';

export const DENSE = 'dense';
export const PEERS = {
  dense: 'openvino-dense',
  sparse: 'openvino-trishape',
  evicting: 'openvino-evict-1024',
} as const;

/** One process; runs stand in the order in which they were made. */
export interface Run {
  /** From 1. */
  readonly round: number;
  /** Prompt tokens. */
  readonly length: number;
  readonly name: string;
  /** Null = it failed. */
  readonly measurement: Measurement | null;
}

interface Figures {
  readonly ttftMs: number;
  readonly decodeMs: number;
  /** To the last token that was asked for; null of peers. */
  readonly totalMs: number | null;
  readonly entries: PeakAndEnd | null;
  readonly pool: PeakAndEnd | null;
  readonly rssMb: number;
}

type Pick = (figures: Figures) => number | null;
type Column = readonly [title: string, cell: (name: string) => string];

function figures({ length, measurement }: Run): Figures | null {
  if (measurement === null) return null;
  const request = measurement.requests?.[length];
  return {
    ttftMs: measurement.prefill_ms[length]!,
    decodeMs: measurement.decode_ms[length]!,
    totalMs: request?.arrivals_ms.at(-1) ?? null,
    entries: request?.entry_bytes ?? null,
    pool: request?.pool_bytes ?? null,
    rssMb: measurement.peak_rss_mb,
  };
}

const NONE = '-';
const MEBI = 2 ** 20;

function number(value: number): string {
  return value.toFixed(value >= 100 ? 0 : 1);
}

function cell(values: readonly number[], show = number): string {
  return values.length === 0 ? NONE : show(median(values));
}

/** Median, and the range where there is one. */
function ratioCell(values: readonly number[]): string {
  const [least, most] = [Math.min(...values), Math.max(...values)].map((ratio) => ratio.toFixed(2));
  const range = values.length > 1 ? ` (${least}-${most})` : '';
  return cell(values, (ratio) => ratio.toFixed(2) + range);
}

/** The runs of one prompt length. */
class Runs {
  readonly #runs: readonly Run[];

  constructor(runs: readonly Run[]) {
    this.#runs = runs;
  }

  values(name: string, pick: Pick): number[] {
    return this.#of(name).flatMap((run) => this.#value(run, pick) ?? []);
  }

  /** Of each run of `name` and the last one of `base` before it in the same round, or else the first one after it. */
  ratios(name: string, base: string, ratio: (own: Figures, base: Figures) => number | null): number[] {
    return this.#of(name).flatMap((run) => {
      const [own, other] = [figures(run), this.#partner(run, base)];
      return own === null || other === null ? [] : (ratio(own, other) ?? []);
    });
  }

  #of(name: string): Run[] {
    return this.#runs.filter((run) => run.name === name);
  }

  #value(run: Run, pick: Pick): number | null {
    const own = figures(run);
    return own === null ? null : pick(own);
  }

  #partner(run: Run, base: string): Figures | null {
    const at = this.#runs.indexOf(run);
    const isPartner = (other: Run): boolean =>
      other.name === base && other.round === run.round && other.measurement !== null;
    const partner = this.#runs.slice(0, at + 1).findLast(isPartner) ?? this.#runs.slice(at).find(isPartner);
    return partner === undefined ? null : figures(partner);
  }
}

const isPeer = (name: string): boolean => Object.values<string>(PEERS).includes(name);

/** Where no report tells of entries, the pool's bytes stand in, marked. */
function bytesCell(runs: Runs, name: string, which: keyof PeakAndEnd): string {
  const entries = runs.values(name, (f) => f.entries?.[which] ?? null);
  if (entries.length > 0) return number(median(entries) / MEBI);
  const pool = runs.values(name, (f) => f.pool?.[which] ?? null);
  return pool.length === 0 ? NONE : `~${number(median(pool) / MEBI)}`;
}

function bytesRatio(which: keyof PeakAndEnd) {
  return (own: Figures, dense: Figures): number | null => {
    if (own.entries !== null && dense.entries !== null) return own.entries[which] / dense.entries[which];
    return own.pool === null || dense.pool === null ? null : own.pool[which] / dense.pool[which];
  };
}

function costColumns(runs: Runs, length: number): Column[] {
  const value = (pick: Pick) => (name: string) => cell(runs.values(name, pick));
  const toDense =
    (ratio: (own: Figures, dense: Figures) => number | null) =>
    (name: string): string =>
      name === DENSE ? '1' : ratioCell(runs.ratios(name, DENSE, ratio));
  return [
    ['setting', (name) => name],
    [
      'TTFT s',
      (name) =>
        cell(
          runs.values(name, (f) => f.ttftMs / 1000),
          (s) => s.toFixed(2),
        ),
    ],
    ['prefill tok/s', value((f) => (1000 * length) / f.ttftMs)],
    ['x dense', toDense((own, dense) => dense.ttftMs / own.ttftMs)],
    ['decode ms', value((f) => f.decodeMs)],
    ['x dense', toDense((own, dense) => dense.decodeMs / own.decodeMs)],
    [
      'all s',
      (name) =>
        cell(
          runs.values(name, (f) => (f.totalMs === null ? null : f.totalMs / 1000)),
          (s) => s.toFixed(2),
        ),
    ],
    ['KV peak MiB', (name) => bytesCell(runs, name, 'peak')],
    ['of dense', toDense(bytesRatio('peak'))],
    ['KV end MiB', (name) => bytesCell(runs, name, 'end')],
    ['of dense', toDense(bytesRatio('end'))],
    ['peak RSS MiB', value((f) => f.rssMb)],
  ];
}

/** Rates of ours over theirs. */
function peerColumns(runs: Runs): Column[] {
  const faster = (peer: string, field: 'ttftMs' | 'decodeMs') => (name: string) =>
    ratioCell(runs.ratios(name, peer, (own, theirs) => theirs[field] / own[field]));
  return [
    ['setting', (name) => name],
    ['prefill / OpenVINO', faster(PEERS.dense, 'ttftMs')],
    ['prefill / its TRISHAPE', faster(PEERS.sparse, 'ttftMs')],
    ['decode / OpenVINO', faster(PEERS.dense, 'decodeMs')],
    ['decode / its eviction', faster(PEERS.evicting, 'decodeMs')],
  ];
}

function markdown(columns: readonly Column[], names: readonly string[]): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [
    row(columns.map(([title]) => title)),
    row(columns.map((_, i) => (i === 0 ? '---' : '---:'))),
    ...names.map((name) => row(columns.map(([, of]) => of(name)))),
  ].join('\n');
}

/** Two tables for each prompt length, the second one only if a peer was measured. A failed row has no figures. */
export function prunedTables(all: readonly Run[], names: readonly string[]): string {
  const lengths = [...new Set(all.map(({ length }) => length))];
  const tables = lengths.flatMap((length) => {
    const runs = new Runs(all.filter((run) => run.length === length));
    const title = `${length.toLocaleString('en')} prompt tokens`;
    const cost = `${title}\n\n${markdown(costColumns(runs, length), names)}`;
    if (!names.some(isPeer)) return [cost];
    const own = names.filter((name) => !isPeer(name));
    return [cost, `${title}, against OpenVINO GenAI\n\n${markdown(peerColumns(runs), own)}`];
  });
  return tables.join('\n\n');
}
