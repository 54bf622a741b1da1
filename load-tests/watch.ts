/** What a soak looks at each second, and what it concludes. */
import { WebSocket } from 'ws';
import { once } from 'node:events';
import { Exposition } from '../test/server/support/exposition.ts';

export interface Sample {
  /** Since the start. */
  readonly seconds: number;
  readonly rssBytes: number;
  /** Of the server's main thread; null = nobody asked. */
  readonly heap: {
    readonly heapUsed: number;
    readonly external: number;
    readonly arrayBuffers: number;
  } | null;
  readonly running: number;
  readonly waiting: number;
  readonly kvBytes: number;
  readonly prefixCacheBytes: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly generatedTokens: number;
}

/** Gauges that must return to zero. */
export const ZERO_GAUGES = ['requests_running', 'requests_waiting', 'kv_bytes', 'kv_usage_ratio'] as const;

export async function readMetrics(url: string): Promise<Exposition> {
  return new Exposition(await (await fetch(`${url}/metrics`)).text());
}

export async function takeSample(
  url: string,
  startedMs: number,
  rssBytes: number,
  heap: Sample['heap'],
): Promise<Sample> {
  const page = await readMetrics(url);
  const total = (name: string) => page.total(`coppice_${name}`);
  const errors = page.families.get('coppice_request_errors_total')?.samples ?? [];
  return {
    seconds: Math.round((performance.now() - startedMs) / 1000),
    rssBytes,
    heap,
    running: total('requests_running'),
    waiting: total('requests_waiting'),
    kvBytes: total('kv_bytes'),
    prefixCacheBytes: total('prefix_cache_bytes'),
    errors: Object.fromEntries(
      errors.filter(({ value }) => value > 0).map(({ labels, value }) => [labels['code'] ?? '', value]),
    ),
    generatedTokens: total('generation_tokens_total'),
  };
}

/** Asks a Node.js process for its memory through its inspector. */
export class HeapProbe {
  readonly #socket: WebSocket;
  #id = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
  }

  /** @param url as the process prints it: `ws://127.0.0.1:...` */
  static async open(url: string): Promise<HeapProbe> {
    const socket = new WebSocket(url);
    await once(socket, 'open');
    return new HeapProbe(socket);
  }

  /** @param collect whether garbage is collected before */
  async read(collect = false): Promise<NonNullable<Sample['heap']>> {
    if (collect) await this.#call('HeapProfiler.collectGarbage', {});
    const { result } = (await this.#call('Runtime.evaluate', {
      expression: 'JSON.stringify(process.memoryUsage())',
      returnByValue: true,
    })) as { result: { value: string } };
    const { heapUsed, external, arrayBuffers } = JSON.parse(result.value) as NonNullable<Sample['heap']>;
    return { heapUsed, external, arrayBuffers };
  }

  close(): void {
    this.#socket.close();
  }

  #call(method: string, params: object): Promise<unknown> {
    const id = ++this.#id;
    this.#socket.send(JSON.stringify({ id, method, params }));
    return new Promise((resolve) => {
      const listen = (data: Buffer) => {
        const message = JSON.parse(data.toString()) as { id?: number; result?: unknown };
        if (message.id !== id) return;
        this.#socket.off('message', listen);
        resolve(message.result);
      };
      this.#socket.on('message', listen);
    });
  }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** Least squares over the samples, in bytes a minute. */
export function slopeBytesPerMinute(samples: readonly Sample[]): number {
  const minutes = samples.map(({ seconds }) => seconds / 60);
  const meanX = minutes.reduce((sum, x) => sum + x, 0) / samples.length;
  const meanY = samples.reduce((sum, { rssBytes }) => sum + rssBytes, 0) / samples.length;
  let covariance = 0;
  let variance = 0;
  for (const [i, { rssBytes }] of samples.entries()) {
    const dx = minutes[i]! - meanX;
    covariance += dx * (rssBytes - meanY);
    variance += dx * dx;
  }
  return covariance / variance;
}
