/**
 * Measures our own engine as it was built (`npm run build`), in this process and thread, and prints one `Measurement`
 * line. `--model` is a checkpoint folder; `--pruning`, a preset's name or a JSON object as in a request, goes with all of
 * its requests.
 */
import fs from 'node:fs';
import path from 'node:path';
import type * as PolicyModule from '../src/policies/index.ts';
import type * as EngineModule from '../src/runtime/engine.ts';
import type * as ModelModule from '../src/runtime/model.ts';
import type { PruningReport } from '../src/runtime/protocol.ts';
import type * as PresetModule from '../src/server/presets.ts';
import { greedyRequest } from './greedy-request.ts';
import { benchFolder } from './checkpoint.ts';
import { SEEDS, WORK, median, parseBenchOptions, peakRssMb, promptIds, streamRates } from './prompts.ts';
import type { BenchOptions, Measurement, PeakAndEnd, RequestFigures } from './prompts.ts';

/** What users run: functions that a loader of TypeScript has wrapped are a few percent slower in short steps. */
async function built<Module>(file: string): Promise<Module> {
  return (await import(new URL(`../dist/${file}`, import.meta.url).href)) as Module;
}

const { InferenceEngine } = await built<typeof EngineModule>('runtime/engine.js');
const { Model } = await built<typeof ModelModule>('runtime/model.js');
const { parsePruning } = await built<typeof PolicyModule>('policies/index.js');
const { readPresets } = await built<typeof PresetModule>('server/presets.js');

type Model = ModelModule.Model;
type PruningChoice = PolicyModule.PruningChoice;

const KV_BYTES = 2 ** 31;

/** What is measured: an engine, and what all its requests leave out. */
interface Subject {
  readonly model: Model;
  readonly engine: EngineModule.InferenceEngine;
  readonly pruning: PruningChoice | null;
}

/** Runs prompts together, greedily; gives the ids of each, when they came (ms after the start), and what was pruned. */
async function generate({ engine, pruning }: Subject, prompts: number[][], count: number) {
  const streams = prompts.map(() => ({
    ids: [] as number[],
    arrivalsMs: [] as number[],
    report: null as PruningReport | null,
  }));
  const start = performance.now();
  prompts.forEach((prompt, i) => {
    const needs = { id: `bench-${i}`, promptIds: Int32Array.from(prompt), maxTokens: count, pruning };
    engine.submit(greedyRequest(needs), (event) => {
      if (event.type === 'error') throw new Error(event.message);
      if (event.type === 'done') streams[i]!.report = event.pruning;
      if (event.type !== 'token') return;
      streams[i]!.ids.push(event.tokenId);
      streams[i]!.arrivalsMs.push(performance.now() - start);
    });
  });
  const pool = { peak: 0, end: 0 };
  while (!engine.isIdle) {
    await engine.turn();
    const { kvBytes } = engine.stats();
    pool.peak = Math.max(pool.peak, kvBytes);
    if (kvBytes > 0) pool.end = kvBytes;
  }
  const isPruned = pruning !== null && Object.keys(pruning.families).length > 0;
  if (isPruned && streams.some(({ report }) => report === null))
    throw new Error('expected a report of what was pruned, got none');
  return { streams, pool };
}

/** K and V of an unpruned sequence. */
function denseBytes({ kvShape }: Model, numTokens: number): number {
  const elements = kvShape.reduce((sum, { kvHeads, headDim }) => sum + kvHeads * headDim * 2, 0);
  return numTokens * elements * Float32Array.BYTES_PER_ELEMENT;
}

function entryBytes(model: Model, numTokens: number, report: PruningReport | null): PeakAndEnd | null {
  const dense = denseBytes(model, numTokens);
  if (report === null) return { peak: dense, end: dense };
  return report.kv === null ? null : { peak: report.kv.peakBytes, end: report.kv.bytes };
}

async function measureSingle(subject: Subject, options: BenchOptions) {
  const prefillMs: Record<string, number> = {};
  const decodeMs: Record<string, number> = {};
  const requests: Record<string, RequestFigures> = {};
  for (const [i, length] of options.prefill.entries()) {
    const steps = options.decode.includes(length) ? WORK.decodeSteps : 0;
    const { streams, pool } = await generate(subject, [promptIds(length, SEEDS.prefill + i)], 1 + steps);
    const { arrivalsMs, report } = streams[0]!;
    prefillMs[length] = arrivalsMs[0]!;
    if (steps > 0) decodeMs[length] = median(arrivalsMs.slice(1).map((t, k) => t - arrivalsMs[k]!));
    const entries = entryBytes(subject.model, length + steps, report);
    requests[length] = { arrivals_ms: arrivalsMs, entry_bytes: entries, pool_bytes: pool, report };
  }
  return { prefillMs, decodeMs, requests };
}

async function measureStreams(subject: Subject) {
  const prompts = Array.from({ length: WORK.streams }, (_, i) =>
    promptIds(WORK.streamPrompt, SEEDS.streams + i),
  );
  const { streams } = await generate(subject, prompts, WORK.streamOutput);
  return streamRates(streams.map(({ arrivalsMs }) => arrivalsMs));
}

async function measure(options: BenchOptions, pruning: string | null): Promise<Measurement> {
  const start = performance.now();
  const model = await Model.load({
    modelDir: options.model,
    precision: 'int8',
    threads: options.threads,
    cacheDir: path.join(benchFolder(), 'compiled'),
  });
  const readyAt = performance.now();
  const engine = new InferenceEngine(model, { kvMaxBytes: KV_BYTES, prefixCacheMaxBytes: 0, maxRunning: 16 });
  const subject = { model, engine, pruning: readPruning(pruning, model) };
  const warmup = await generate(subject, [promptIds(WORK.warmupTokens, SEEDS.warmup)], WORK.warmupOutput);
  const { prefillMs, decodeMs, requests } = await measureSingle(subject, options);
  const streams8 = options.streams ? await measureStreams(subject) : null;
  const { version } = JSON.parse(fs.readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return {
    engine: 'coppice int8',
    version,
    threads: options.threads,
    load_ms: readyAt - start,
    first_request_ms: warmup.streams[0]!.arrivalsMs[0]!,
    greedy: warmup.streams[0]!.ids,
    prefill_ms: prefillMs,
    decode_ms: decodeMs,
    streams8,
    peak_rss_mb: peakRssMb(),
    requests,
  };
}

function readPruning(text: string | null, model: Model): PruningChoice | null {
  if (text === null) return null;
  const value: unknown = text.trimStart().startsWith('{') ? JSON.parse(text) : text;
  return parsePruning(value, readPresets({ presets: {}, default: 'none' }), model.info.shape);
}

/** Takes `--pruning` out: no peer knows it, so it is none of the common options. */
function takePruning(argv: readonly string[]): { rest: string[]; pruning: string | null } {
  const at = argv.indexOf('--pruning');
  if (at < 0) return { rest: [...argv], pruning: null };
  const pruning = argv[at + 1];
  if (pruning === undefined) throw new Error('expected --pruning PRESET_OR_JSON, got no value');
  return { rest: argv.toSpliced(at, 2), pruning };
}

const { rest, pruning } = takePruning(process.argv.slice(2));
process.stdout.write(JSON.stringify(await measure(parseBenchOptions(rest), pruning)) + '\n');
