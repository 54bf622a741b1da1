/** `npm run load -- soak`: minutes of mixed traffic; memory must stay flat, gauges return to zero, nothing be a 5xx. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Command } from 'commander';
import { startServerProcess } from '../test/server/conformance/support/server-process.ts';
import type { ServerProcess } from '../test/server/conformance/support/server-process.ts';
import { listPrunings, seededRandom, sendOne } from './traffic.ts';
import { HeapProbe, ZERO_GAUGES, median, readMetrics, slopeBytesPerMinute, takeSample } from './watch.ts';
import type { Sample } from './watch.ts';

interface SoakOptions {
  readonly minutes: number;
  readonly clients: number;
  readonly seed: number;
  readonly heap: boolean;
  readonly out: string;
}

/** Caches are small, so that they are full before memory is judged. */
const CONFIG = {
  queue: { max_running: 8, max_requests: 32 },
  kv: { max_bytes: '128MiB' },
  prefix_cache: { max_bytes: '16MiB' },
  responses: { max_bytes: '4MiB' },
  log: { level: 'warn' },
};

/** Until then pools, caches and compiled code grow to their size. */
const WARM_UP_SHARE = 0.25;
/**
 * From the first quarter after it to the last, medians. A process at work wanders by as much as 25 MiB as garbage and
 * freed pages come and go (seen in three minutes without any leak); `waves` looks closer, without the noise.
 */
const MOST_GROWTH_BYTES = 32 * 2 ** 20;
const MOST_IDLE_MS = 10_000;

export function addSoakCommand(program: Command): void {
  program
    .command('soak')
    .description('mixed traffic for minutes; fails on a 5xx, a stuck gauge or growing memory')
    .option('--minutes <number>', 'how long', Number, 10)
    .option('--clients <number>', 'clients at once', Number, 12)
    .option('--seed <number>', 'of the traffic', Number, 1)
    .option('--heap', 'ask the server for its heaps, too (starts it with an inspector)', false)
    .option('--out <file>', 'raw samples as JSON', 'load-tests/results/soak.json')
    .action(soak);
}

async function soak(options: SoakOptions): Promise<void> {
  const server = await startServerProcess({
    config: CONFIG,
    nodeArgs: options.heap ? ['--inspect=127.0.0.1:0'] : [],
  });
  try {
    const probe = options.heap ? await HeapProbe.open(inspectorUrl(server)) : null;
    const counts = new Map<string, number>();
    const mistakes: string[] = [];
    const samples = await watchTraffic(server, probe, options, (key, mistake) => {
      counts.set(key, (counts.get(key) ?? 0) + 1);
      if (mistake !== null) mistakes.push(`${key}: ${mistake}`);
    });
    const stuck = await stuckGauges(server.url);
    const rested = probe === null ? null : await probe.read(true);
    probe?.close();
    const found = { ...judge(samples), stuck, mistakes: mistakes.length };
    mkdirSync(dirname(options.out), { recursive: true });
    const report = {
      options,
      config: CONFIG,
      node: process.version,
      found,
      rested,
      counts: Object.fromEntries(counts),
      mistakes: mistakes.slice(0, 100),
      samples,
    };
    writeFileSync(options.out, JSON.stringify(report));
    print(samples, counts, mistakes);
    const failures = [
      ...(mistakes.length > 0 ? [`${mistakes.length} requests that did not end as they should`] : []),
      ...(server.output().match(/"level":(50|60)/) === null ? [] : ['errors in the log']),
      ...stuck.map((name) => `${name} did not return to zero`),
      ...found.growing,
    ];
    for (const failure of failures) console.error(`failed: ${failure}`);
    if (failures.length > 0) process.exitCode = 1;
  } finally {
    await server.stop();
  }
}

export function inspectorUrl(server: ServerProcess): string {
  const [url] = /ws:\/\/\S+/.exec(server.output()) ?? [];
  if (url === undefined) throw new Error('expected the address of an inspector');
  return url;
}

type Count = (key: string, mistake: string | null) => void;

/** Traffic of all clients until time is up; a sample a second. */
async function watchTraffic(
  server: ServerProcess,
  probe: HeapProbe | null,
  { minutes, clients, seed }: SoakOptions,
  count: Count,
): Promise<Sample[]> {
  const { url } = server;
  const prunings = await listPrunings(url);
  const startedMs = performance.now();
  const endMs = startedMs + minutes * 60_000;
  const work = Array.from({ length: clients }, async (_, i) => {
    const client = { url, prunings, random: seededRandom(seed * 1000 + i) };
    while (performance.now() < endMs) {
      try {
        const { kind, status, mistake } = await sendOne(client);
        count(`${kind} ${status}`, status >= 500 ? `a 5xx: ${mistake ?? ''}` : mistake);
      } catch (error) {
        // What broke stands in the cause of fetch's errors.
        const { message, cause } = error as Error;
        count('broken', cause instanceof Error ? `${message}: ${cause.message}` : message);
      }
    }
  });
  const samples: Sample[] = [];
  const timer = setInterval(() => {
    void (async () => {
      const heap = probe === null ? null : await probe.read();
      samples.push(await takeSample(url, startedMs, server.rssBytes(), heap));
    })().catch((error: unknown) => {
      count('no sample', String(error));
    });
  }, 1000);
  await Promise.all(work);
  clearInterval(timer);
  return samples;
}

async function stuckGauges(url: string): Promise<string[]> {
  const deadlineMs = performance.now() + MOST_IDLE_MS;
  for (;;) {
    const page = await readMetrics(url);
    const stuck = ZERO_GAUGES.filter((name) => page.total(`coppice_${name}`) !== 0);
    if (stuck.length === 0 || performance.now() > deadlineMs) return stuck;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function judge(samples: readonly Sample[]): {
  slopeBytesPerMinute: number;
  growthBytes: number;
  growing: string[];
} {
  const warm = samples.slice(Math.floor(samples.length * WARM_UP_SHARE));
  const slope = slopeBytesPerMinute(warm);
  const [first, last] = [quarter(warm, 0), quarter(warm, 3)];
  const growthBytes =
    median(last.map(({ rssBytes }) => rssBytes)) - median(first.map(({ rssBytes }) => rssBytes));
  const growing = growthBytes > MOST_GROWTH_BYTES ? [`memory grows by ${mebibytes(growthBytes)} MiB`] : [];
  return { slopeBytesPerMinute: slope, growthBytes, growing };
}

function quarter(samples: readonly Sample[], index: number): readonly Sample[] {
  const at = (share: number) => Math.floor((samples.length * share) / 4);
  return samples.slice(at(index), at(index + 1));
}

export const mebibytes = (bytes: number) => (bytes / 2 ** 20).toFixed(1);

function print(
  samples: readonly Sample[],
  counts: ReadonlyMap<string, number>,
  mistakes: readonly string[],
): void {
  console.log('| outcome | requests |\n|---|---|');
  for (const [key, number] of [...counts].sort()) console.log(`| ${key} | ${number} |`);
  console.log(
    '\n| quarter | RSS MiB (median) | heap MiB, server | heap MiB, engine | running | waiting | tokens |\n|---|---|---|---|---|---|---|',
  );
  for (let i = 0; i < 4; i++) {
    const part = quarter(samples, i);
    const of = (read: (sample: Sample) => number) => median(part.map(read));
    const heaps = (['main', 'engine'] as const).map((thread) =>
      part[0]?.heap == null ? '-' : mebibytes(of((sample) => sample.heap?.[thread]?.heapUsed ?? 0)),
    );
    const cells = [
      mebibytes(of((sample) => sample.rssBytes)),
      ...heaps,
      of((sample) => sample.running),
      of((sample) => sample.waiting),
      (part.at(-1)?.generatedTokens ?? 0) - (part[0]?.generatedTokens ?? 0),
    ];
    console.log(`| ${i + 1} | ${cells.join(' | ')} |`);
  }
  const { slopeBytesPerMinute: slope, growthBytes } = judge(samples);
  console.log(
    `\nafter the warm-up: ${mebibytes(slope)} MiB a minute, ${mebibytes(growthBytes)} MiB from its first quarter to its last`,
  );
  console.log(`errors: ${JSON.stringify(samples.at(-1)?.errors ?? {})}`);
  for (const mistake of mistakes.slice(0, 10)) console.error(mistake);
}
