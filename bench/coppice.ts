/** Measures our own engine, in this process and thread, and prints one `Measurement` line. `--model` is a checkpoint folder. */
import fs from 'node:fs';
import path from 'node:path';
import { InferenceEngine } from '../src/runtime/engine.ts';
import { Model } from '../src/runtime/model.ts';
import { GREEDY, type GenerationRequest } from '../src/runtime/protocol.ts';
import { benchFolder } from './checkpoint.ts';
import { SEEDS, WORK, median, parseBenchOptions, peakRssMb, promptIds, streamRates } from './prompts.ts';
import type { BenchOptions, Measurement } from './prompts.ts';

const KV_BYTES = 2 ** 31;

function greedyRequest(id: string, prompt: number[], count: number): GenerationRequest {
  return {
    id,
    promptIds: Int32Array.from(prompt),
    numChoices: 1,
    sampling: GREEDY,
    maxTokens: count,
    minTokens: 0,
    stopTokenIds: [],
    promptLogprobs: null,
    priority: 0,
    cachePrompt: false,
    reportProgress: false,
    pruning: null,
  };
}

/** Runs prompts together, greedily; gives the ids of each and when they came (ms after the start). */
async function generate(engine: InferenceEngine, prompts: number[][], count: number) {
  const streams = prompts.map(() => ({ ids: [] as number[], arrivalsMs: [] as number[] }));
  const start = performance.now();
  prompts.forEach((prompt, i) => {
    engine.submit(greedyRequest(`bench-${i}`, prompt, count), (event) => {
      if (event.type === 'error') throw new Error(event.message);
      if (event.type !== 'token') return;
      streams[i]!.ids.push(event.tokenId);
      streams[i]!.arrivalsMs.push(performance.now() - start);
    });
  });
  while (!engine.isIdle) await engine.turn();
  return streams;
}

async function measureSingle(engine: InferenceEngine, options: BenchOptions) {
  const prefillMs: Record<string, number> = {};
  const decodeMs: Record<string, number> = {};
  for (const [i, length] of options.prefill.entries()) {
    const steps = options.decode.includes(length) ? WORK.decodeSteps : 0;
    const [stream] = await generate(engine, [promptIds(length, SEEDS.prefill + i)], 1 + steps);
    const { arrivalsMs } = stream!;
    prefillMs[length] = arrivalsMs[0]!;
    if (steps > 0) decodeMs[length] = median(arrivalsMs.slice(1).map((t, k) => t - arrivalsMs[k]!));
  }
  return { prefillMs, decodeMs };
}

async function measure(options: BenchOptions): Promise<Measurement> {
  const start = performance.now();
  const cacheDir = process.env['CC'] ?? path.join(benchFolder(), 'compiled');
  const model = await Model.load({
    modelDir: options.model,
    precision: 'int8',
    threads: options.threads,
    cacheDir,
  });
  const readyAt = performance.now();
  const engine = new InferenceEngine(model, { kvMaxBytes: KV_BYTES, prefixCacheMaxBytes: 0, maxRunning: 16 });
  const [warmup] = await generate(engine, [promptIds(WORK.warmupTokens, SEEDS.warmup)], WORK.warmupOutput);
  const { prefillMs, decodeMs } = await measureSingle(engine, options);
  const prompts = Array.from({ length: WORK.streams }, (_, i) =>
    promptIds(WORK.streamPrompt, SEEDS.streams + i),
  );
  const streams = options.streams ? await generate(engine, prompts, WORK.streamOutput) : null;
  const { version } = JSON.parse(fs.readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return {
    engine: 'coppice int8',
    version,
    threads: options.threads,
    load_ms: readyAt - start,
    first_request_ms: warmup!.arrivalsMs[0]!,
    greedy: warmup!.ids,
    prefill_ms: prefillMs,
    decode_ms: decodeMs,
    streams8: streams === null ? null : streamRates(streams.map((stream) => stream.arrivalsMs)),
    peak_rss_mb: peakRssMb(),
  };
}

process.stdout.write(JSON.stringify(await measure(parseBenchOptions(process.argv.slice(2)))) + '\n');
