/** Measures llama.cpp through node-llama-cpp and prints one `Measurement` line. `--model` is a GGUF file. */
import fs from 'node:fs';
import path from 'node:path';
import { SEEDS, WORK, median, parseBenchOptions, peakRssMb, promptIds, streamRates } from '../prompts.ts';
import type { BenchOptions, Measurement } from '../prompts.ts';

/** The part of node-llama-cpp used here: the package is installed by `setup` only, so its own types may be missing. */
interface Sequence {
  evaluate(
    ids: number[],
    options: { temperature: number; yieldEogToken: boolean },
  ): AsyncGenerator<number, void, void>;
  dispose(): void;
}
interface Context {
  getSequence(): Sequence;
  dispose(): Promise<void>;
}
interface Model {
  createContext(options: Record<string, unknown>): Promise<Context>;
}
interface Llama {
  readonly llamaCppRelease: { release: string };
  loadModel(options: Record<string, unknown>): Promise<Model>;
}
interface NodeLlamaCpp {
  readonly getLlama: (options: Record<string, unknown>) => Promise<Llama>;
}

const PACKAGE: string = 'node-llama-cpp';

/** `contextTokens` is per sequence. KV cells are f16, and 512 tokens go into one native call, as llama.cpp's tools do. */
function createContext(model: Model, threads: number, contextTokens: number, sequences: number) {
  const options = { batchSize: 512, flashAttention: true, threads, sequences };
  return model.createContext({ contextSize: contextTokens, ...options });
}

/** Feeds one prompt and takes `count` greedy ids, noting when each arrives (ms after `start`). */
async function generate(sequence: Sequence, prompt: number[], count: number, start = performance.now()) {
  const arrivalsMs: number[] = [];
  const ids: number[] = [];
  for await (const id of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    arrivalsMs.push(performance.now() - start);
    ids.push(id);
    if (ids.length === count) break;
  }
  if (ids.length !== count) throw new Error(`expected ${count} ids, got ${ids.length}`);
  return { arrivalsMs, ids };
}

/** The warm-up, then every prompt in a new sequence of one context, so that nothing of an earlier one is reused. */
async function measureSingle(model: Model, options: BenchOptions) {
  const longest = Math.max(WORK.warmupTokens, ...options.prefill);
  const context = await createContext(model, options.threads, longest + WORK.decodeSteps + 1, 1);
  const readyAt = performance.now();
  const single = async (prompt: number[], count: number) => {
    const sequence = context.getSequence();
    const run = await generate(sequence, prompt, count);
    sequence.dispose();
    return run;
  };
  const warmup = await single(promptIds(WORK.warmupTokens, SEEDS.warmup), WORK.warmupOutput);
  const prefillMs: Record<string, number> = {};
  const decodeMs: Record<string, number> = {};
  for (const [i, length] of options.prefill.entries()) {
    const steps = options.decode.includes(length) ? WORK.decodeSteps : 0;
    const { arrivalsMs } = await single(promptIds(length, SEEDS.prefill + i), 1 + steps);
    prefillMs[length] = arrivalsMs[0]!;
    if (steps > 0) decodeMs[length] = median(arrivalsMs.slice(1).map((t, k) => t - arrivalsMs[k]!));
  }
  await context.dispose();
  return { readyAt, warmup, prefillMs, decodeMs };
}

async function measureStreams(model: Model, threads: number) {
  const context = await createContext(model, threads, WORK.streamPrompt + WORK.streamOutput, WORK.streams);
  const sequences = Array.from({ length: WORK.streams }, () => context.getSequence());
  const start = performance.now();
  const streams = await Promise.all(
    sequences.map((sequence, i) =>
      generate(sequence, promptIds(WORK.streamPrompt, SEEDS.streams + i), WORK.streamOutput, start),
    ),
  );
  return streamRates(streams.map((stream) => stream.arrivalsMs));
}

async function measure(options: BenchOptions): Promise<Measurement> {
  const { getLlama } = (await import(PACKAGE)) as NodeLlamaCpp;
  const manifest = fs.readFileSync(new URL(`node_modules/${PACKAGE}/package.json`, import.meta.url), 'utf8');
  const start = performance.now();
  const llama = await getLlama({
    gpu: false,
    build: 'never',
    logLevel: 'error',
    maxThreads: options.threads,
  });
  // Without mmap the file's pages are not counted beside the repacked weights: the smaller of the two peaks.
  const model = await llama.loadModel({ modelPath: options.model, useMmap: false });
  const { readyAt, warmup, prefillMs, decodeMs } = await measureSingle(model, options);
  const streams8 = options.streams ? await measureStreams(model, options.threads) : null;
  const { version } = JSON.parse(manifest) as { version: string };
  return {
    engine: `llama.cpp ${path.basename(options.model, '.gguf').toUpperCase()}`,
    version: `${llama.llamaCppRelease.release} (${PACKAGE} ${version})`,
    threads: options.threads,
    load_ms: readyAt - start,
    first_request_ms: warmup.arrivalsMs[0]!,
    greedy: warmup.ids,
    prefill_ms: prefillMs,
    decode_ms: decodeMs,
    streams8,
    peak_rss_mb: peakRssMb(),
  };
}

process.stdout.write(JSON.stringify(await measure(parseBenchOptions(process.argv.slice(2)))) + '\n');
// The native thread pool would keep the process alive.
process.exit(0);
