/**
 * What a scrape of /metrics takes while the server works: `npx tsx bench/scrape.ts [--main dist/main.js,OTHER/dist/main.js]
 * [--rounds 3] [--streams 8] [--labels 26] [--scrapes 100]`. Builds are measured in turn; percentiles are over all rounds.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import type { ClientRequest, IncomingMessage } from 'node:http';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

/** As often as the busiest routers ask. */
const PERIOD_MS = 50;
const READY = 'coppice is ready at ';

interface Settings {
  readonly streams: number;
  readonly labels: number;
  readonly scrapes: number;
}

interface Policies {
  readonly data: { name: string; family: string; supported: boolean; examples: unknown[] }[];
  readonly presets: { name: string; supported: boolean }[];
}

async function startServer(main: string) {
  const server = spawn(process.execPath, [main, 'serve', '--port', '0'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of createInterface({ input: server.stdout })) {
    if (line.startsWith(READY)) return { server, url: line.slice(READY.length) };
  }
  throw new Error(`${main} ended before it was ready`);
}

/** Settings with a label of their own: presets, single policies, then pairs of a kv policy and layers. */
async function pruningSettings(url: string, count: number): Promise<unknown[]> {
  const { data, presets } = JSON.parse(await read((await send(`${url}/v1/policies`))[1])) as Policies;
  const supported = data.filter((policy) => policy.supported);
  const byName = new Map(supported.map(({ name, family, examples }) => [name, { [family]: examples[0] }]));
  const layers = supported.find(({ family }) => family === 'layers')!.examples[0];
  const pairs = supported
    .filter(({ family }) => family === 'kv')
    .map(({ examples }) => ({ kv: examples[0], layers }));
  const settings = [
    'none',
    ...presets.filter((preset) => preset.supported).map(({ name }) => name),
    ...byName.values(),
    ...pairs,
  ];
  if (settings.length < count) throw new Error(`expected at most ${settings.length} labels, got ${count}`);
  return settings.slice(0, count);
}

/** Below fetch, whose streams would be a good part of what is measured. */
const agent = new Agent({ keepAlive: true });

async function send(url: string, body?: object): Promise<[ClientRequest, IncomingMessage]> {
  const sent = request(url, {
    agent,
    ...(body && { method: 'POST', headers: { 'content-type': 'application/json' } }),
  });
  sent.end(body && JSON.stringify(body));
  const [reply] = (await once(sent, 'response')) as [IncomingMessage];
  if (reply.statusCode !== 200) throw new Error(`expected status 200 of ${url}, got ${reply.statusCode}`);
  return [sent, reply];
}

async function read(reply: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of reply) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

function complete(url: string, body: object): Promise<[ClientRequest, IncomingMessage]> {
  const prompt = 'The key of the red door is '.repeat(20);
  return send(`${url}/v1/completions`, { prompt, ignore_eos: true, ...body });
}

interface Times {
  readonly scrape: number[];
  /** Of /health, asked in turn with the scrapes: what an answer of a few bytes takes on this machine as it is. */
  readonly health: number[];
}

async function timed(url: string): Promise<{ ms: number; text: string }> {
  const startedMs = performance.now();
  const text = await read((await send(url))[1]);
  return { ms: performance.now() - startedMs, text };
}

/** Milliseconds as the client sees them, and what the last page was like. */
async function measure(main: string, { streams, labels, scrapes }: Settings) {
  const { server, url } = await startServer(main);
  try {
    for (const pruning of await pruningSettings(url, labels))
      await read((await complete(url, { pruning, max_tokens: 3 }))[1]);
    const running = await Promise.all(
      Array.from({ length: streams }, () => complete(url, { stream: true, max_tokens: 7500 })),
    );
    // A reader that stops would pause its sequence.
    for (const [, reply] of running) reply.on('error', () => undefined).resume();
    const times: Times = { scrape: [], health: [] };
    let page = '';
    for (let i = 0; i < scrapes; i++) {
      await new Promise((resolve) => setTimeout(resolve, PERIOD_MS / 2));
      times.health.push((await timed(`${url}/health`)).ms);
      await new Promise((resolve) => setTimeout(resolve, PERIOD_MS / 2));
      const scrape = await timed(`${url}/metrics`);
      times.scrape.push(scrape.ms);
      page = scrape.text;
    }
    const numRunning = Number(/^coppice_requests_running\{.*\} (\d+)$/m.exec(page)?.[1]);
    if (numRunning !== streams) throw new Error(`expected ${streams} streams to the end, got ${numRunning}`);
    for (const [sent] of running) sent.destroy();
    return { times, pageBytes: page.length, series: page.match(/^coppice_e2e.*_count/gm)?.length };
  } finally {
    agent.destroy();
    server.kill();
    await once(server, 'exit');
  }
}

function percentile(sorted: readonly number[], share: number): string {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!.toFixed(1);
}

const { values } = parseArgs({
  options: {
    main: { type: 'string', default: path.join(import.meta.dirname, '../dist/main.js') },
    rounds: { type: 'string', default: '3' },
    streams: { type: 'string', default: '8' },
    labels: { type: 'string', default: '26' },
    scrapes: { type: 'string', default: '100' },
  },
});
const mains = values.main.split(',');
const settings = {
  streams: Number(values.streams),
  labels: Number(values.labels),
  scrapes: Number(values.scrapes),
};
const all = new Map<string, Times>(mains.map((main) => [main, { scrape: [], health: [] }]));
for (let round = 0; round < Number(values.rounds); round++) {
  for (const main of mains) {
    const { times, pageBytes, series } = await measure(main, settings);
    for (const kind of ['scrape', 'health'] as const) all.get(main)![kind].push(...times[kind]);
    process.stderr.write(`${main}: ${series} labels, ${pageBytes} bytes, ${settings.streams} streams\n`);
  }
}
for (const [main, times] of all) {
  for (const kind of ['scrape', 'health'] as const) {
    const sorted = times[kind].sort((a, b) => a - b);
    const [p10, p50, p95, p99] = [0.1, 0.5, 0.95, 0.99].map((share) => percentile(sorted, share));
    process.stdout.write(
      `${main}: ${kind} p10 ${p10} ms, p50 ${p50} ms, p95 ${p95} ms, p99 ${p99} ms (${sorted.length})\n`,
    );
  }
}
