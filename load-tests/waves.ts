/** `npm run load -- waves`: the same requests in waves, memory after garbage collection behind each: what leaks shows as a line that rises. */
import type { Command } from 'commander';
import { startServerProcess } from '../test/server/conformance/support/server-process.ts';
import { inspectorUrl, mebibytes } from './soak.ts';
import { HeapProbe } from './watch.ts';

/** Nothing is kept between requests, so that nothing may grow. */
const CONFIG = {
  queue: { max_running: 8 },
  kv: { max_bytes: '128MiB' },
  prefix_cache: { max_bytes: 0 },
  responses: { max_bytes: 0 },
  log: { level: 'warn' },
};
const REQUESTS = { rounds: 5, atOnce: 8 };
/** Until then buffers grow to their size and code is compiled. */
const WARM_UP_WAVES = 10;
/** V8 and the allocator give and take some MiB; a KiB a request would be one for 25 waves. */
const MOST_GROWTH_BYTES = 6 * 2 ** 20;

/** What each request of a kind adds to a plain chat. */
const KINDS: Readonly<Record<string, (index: number) => object>> = {
  plain: () => ({}),
  streamed: () => ({ stream: true, n: 2 }),
  pruned: (i) => ({
    pruning: ['balanced', 'fast', { kv: 'snapkv' }, { kv: 'h2o' }, { tokens: 'lazyllm' }][i % 5],
  }),
  // A schema of its own for each: compiled ones must not pile up.
  structured: (i) => {
    const schema = {
      type: 'object',
      properties: { [`c${i}`]: { enum: ['red', 'green'] } },
      required: [`c${i}`],
      additionalProperties: false,
    };
    return { response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema } } };
  },
};

export function addWavesCommand(program: Command): void {
  program
    .command('waves')
    .description('equal waves of requests; fails if memory at rest grows')
    .option('--kinds <names>', `of ${Object.keys(KINDS).join(',')}`, Object.keys(KINDS).join(','))
    .option('--waves <number>', 'of each kind', Number, 40)
    .action(async ({ kinds, waves }: { kinds: string; waves: number }) => {
      for (const kind of kinds.split(',')) await runKind(kind, waves);
    });
}

async function runKind(kind: string, numWaves: number): Promise<void> {
  const fields = KINDS[kind];
  if (fields === undefined) throw new Error(`expected one of ${Object.keys(KINDS).join(', ')}, got ${kind}`);
  const server = await startServerProcess({ config: CONFIG, nodeArgs: ['--inspect=127.0.0.1:0'] });
  try {
    const probe = await HeapProbe.open(inspectorUrl(server));
    let warmBytes = Number.NaN;
    let rssBytes = Number.NaN;
    for (let wave = 1; wave <= numWaves; wave++) {
      await sendWave(server.url, fields, wave);
      if (wave % 5 !== 0) continue;
      const { main, engine } = await probe.read(true);
      rssBytes = server.rssBytes();
      if (wave === WARM_UP_WAVES) warmBytes = rssBytes;
      const heaps = `heaps ${mebibytes(main.heapUsed)} + ${mebibytes(engine?.heapUsed ?? 0)}`;
      console.log(`${kind}, wave ${wave}: RSS ${mebibytes(rssBytes)}, ${heaps} MiB`);
    }
    probe.close();
    if (!(rssBytes - warmBytes > MOST_GROWTH_BYTES)) return;
    console.error(`failed: ${kind} grows by ${mebibytes(rssBytes - warmBytes)} MiB`);
    process.exitCode = 1;
  } finally {
    await server.stop();
  }
}

async function sendWave(url: string, fields: (index: number) => object, wave: number): Promise<void> {
  for (let round = 0; round < REQUESTS.rounds; round++) {
    const send = async (_: unknown, i: number) => {
      const index = (wave * REQUESTS.rounds + round) * REQUESTS.atOnce + i;
      const content = `${index} ${'Remember that the key code of the old hammer is 3426. '.repeat(12)}`;
      const response = await fetch(`${url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          messages: [{ role: 'user', content }],
          max_tokens: 16,
          ignore_eos: true,
          ...fields(index),
        }),
      });
      const text = await response.text();
      if (response.status !== 200) throw new Error(text);
    };
    await Promise.all(Array.from({ length: REQUESTS.atOnce }, send));
  }
}
