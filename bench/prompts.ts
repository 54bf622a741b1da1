/** The work every engine is measured on: seeded prompt ids, its options, and the one JSON line it prints. */
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import type { PruningReport } from '../src/runtime/protocol.ts';

/** First id that is no control or byte token, and how many ids from there on a prompt may draw on. */
const FIRST_ID = 300;
const ID_RANGE = 150_000;

/**
 * A prompt of `length` token ids that shares no prefix with a prompt of another seed (seeds below 150,000).
 * `peers/prompts.py` computes the same ids: both factors are primes that do not divide `ID_RANGE`, so the walk
 * visits every id once before it repeats, and all products stay exact in doubles.
 */
export function promptIds(length: number, seed: number): number[] {
  return Array.from({ length }, (_, i) => FIRST_ID + ((i * 7919 + seed * 104_729) % ID_RANGE));
}

/** Seeds of the prompts, apart so that no engine can reuse a prefix between two parts of the work. */
export const SEEDS = { warmup: 29, prefill: 1000, streams: 2000 } as const;

/** Sizes that are not options: every engine must do the same. */
export const WORK = {
  /** The first request of a process: its ids are the sanity check, its time is the cold start. */
  warmupTokens: 64,
  warmupOutput: 6,
  /** Timed decode steps for each context; their median is reported. */
  decodeSteps: 24,
  streams: 8,
  streamPrompt: 256,
  streamOutput: 64,
} as const;

/** What one measuring process is asked to do. Lengths are in tokens. */
export interface BenchOptions {
  model: string;
  threads: number;
  prefill: number[];
  decode: number[];
  streams: boolean;
}

/**
 * The one line on stdout. Times are in ms, rates in output tokens a second over all streams.
 *
 * - `load_ms`: from the start of loading to ready for a request; the start of the interpreter is not in it.
 * - `first_request_ms`: time to first token of the warm-up prompt, the first request of the process.
 * - `greedy`: the ids which that request produced.
 * - `prefill_ms[n]`: from handing over a prompt of n ids to its first output id.
 * - `decode_ms[n]`: median time of one step after a prompt of n ids.
 * - `streams8`: `null` when not measured. `tps_end_to_end` counts all ids from the start to the last one;
 *   `tps_decode` counts only those that follow the moment when every stream has its first id.
 * - `peak_rss_mb`: VmHWM at the end, MiB.
 * - `requests[n]`: more about the request with a prompt of n ids; of our engine only.
 */
export interface Measurement {
  engine: string;
  version: string;
  threads: number;
  load_ms: number;
  first_request_ms: number;
  greedy: number[];
  prefill_ms: Record<string, number>;
  decode_ms: Record<string, number>;
  streams8: { tps_end_to_end: number; tps_decode: number } | null;
  peak_rss_mb: number;
  requests?: Record<string, RequestFigures>;
}

/** Most bytes at any time, and those at the end. */
export interface PeakAndEnd {
  peak: number;
  end: number;
}

/**
 * - `arrivals_ms`: when each output id came, from handing over the prompt.
 * - `entry_bytes`: K and V of all entries, by the engine's report; computed from the shape where nothing was pruned;
 *   `null` where no `kv` policy was in force to report it.
 * - `pool_bytes`: what the KV pool held after each turn; memory comes in steps of up to 256 entries a head.
 */
export interface RequestFigures {
  arrivals_ms: number[];
  entry_bytes: PeakAndEnd | null;
  pool_bytes: PeakAndEnd;
  report: PruningReport | null;
}

/** Reads `--model FOLDER_OR_FILE [--threads 2] [--prefill 512,...] [--decode 1024,...] [--no-streams]`. */
export function parseBenchOptions(argv: string[]): BenchOptions {
  const { values } = parseArgs({
    args: argv,
    options: {
      model: { type: 'string' },
      threads: { type: 'string', default: '2' },
      prefill: { type: 'string', default: '512,1024,4096,8192' },
      decode: { type: 'string', default: '1024,4096,8192' },
      'no-streams': { type: 'boolean', default: false },
    },
  });
  if (values.model === undefined) throw new Error('expected --model FOLDER_OR_FILE, got none');
  const options = {
    model: values.model,
    threads: parseCounts('--threads', values.threads)[0]!,
    prefill: parseCounts('--prefill', values.prefill),
    decode: parseCounts('--decode', values.decode),
    streams: !values['no-streams'],
  };
  const strange = options.decode.find((length) => !options.prefill.includes(length));
  if (strange !== undefined) throw new Error(`expected --decode among --prefill lengths, got ${strange}`);
  return options;
}

/** Comma-separated numbers, each at least 1. */
export function parseCounts(flag: string, text: string): number[] {
  return text
    .split(',')
    .filter((part) => part !== '')
    .map((part) => {
      const count = Number(part);
      if (!Number.isSafeInteger(count) || count < 1)
        throw new Error(`expected ${flag} N[,N...], got "${text}"`);
      return count;
    });
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) throw new Error('expected at least one value, got none');
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Arrival times (ms from one common start) of the ids of each stream -> the two rates of `streams8`. */
export function streamRates(arrivalsMs: readonly number[][]): { tps_end_to_end: number; tps_decode: number } {
  const all = arrivalsMs.flat();
  const end = Math.max(...all);
  const allStarted = Math.max(...arrivalsMs.map((stream) => stream[0]!));
  const after = all.filter((t) => t > allStarted).length;
  return { tps_end_to_end: (all.length / end) * 1000, tps_decode: (after / (end - allStarted)) * 1000 };
}

/** VmHWM of this process, MiB: the most memory it ever had resident. */
export function peakRssMb(): number {
  const line = /^VmHWM:\s+(\d+) kB/m.exec(fs.readFileSync('/proc/self/status', 'utf8'));
  if (line === null)
    throw new Error('expected VmHWM in /proc/self/status, got none: the benchmark runs on Linux');
  return Math.round(Number(line[1]) / 1024);
}
