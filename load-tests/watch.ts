/** What a soak looks at each second, and what it concludes. */
import { WebSocket } from 'ws';
import { once } from 'node:events';
import { Exposition } from '../test/server/support/exposition.ts';

export interface Sample {
  /** Since the start. */
  readonly seconds: number;
  readonly rssBytes: number;
  /** Of the server's two threads; null = nobody asked. */
  readonly heap: { readonly main: ThreadHeap; readonly engine: ThreadHeap | null } | null;
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

/** V8's memory in one thread. */
interface ThreadHeap {
  readonly heapUsed: number;
  readonly external: number;
  readonly arrayBuffers: number;
}

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly sessionId: string; readonly message?: string };
  readonly result?: unknown;
}

/** Asks a Node.js process and its one worker for their memory through the inspector. */
export class HeapProbe {
  readonly #socket: WebSocket;
  readonly #answers = new Map<string, (result: unknown) => void>();
  /** Of the worker; null = there is none yet. */
  #session: string | null = null;
  #id = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('message', (data: Buffer) => {
      this.#hear(JSON.parse(data.toString()) as Message, 'main');
    });
  }

  /** @param url as the process prints it: `ws://127.0.0.1:...` */
  static async open(url: string): Promise<HeapProbe> {
    const socket = new WebSocket(url);
    await once(socket, 'open');
    const probe = new HeapProbe(socket);
    await probe.#call('main', 'NodeWorker.enable', { waitForDebuggerOnStart: false });
    return probe;
  }

  /** @param collect whether garbage is collected before */
  async read(collect = false): Promise<NonNullable<Sample['heap']>> {
    const main = await this.#read('main', collect);
    const engine = this.#session === null ? null : await this.#read('worker', collect);
    return { main, engine };
  }

  close(): void {
    this.#socket.close();
  }

  async #read(thread: 'main' | 'worker', collect: boolean): Promise<ThreadHeap> {
    if (collect) await this.#call(thread, 'HeapProfiler.collectGarbage', {});
    const { result } = (await this.#call(thread, 'Runtime.evaluate', {
      expression: 'JSON.stringify(process.memoryUsage())',
      returnByValue: true,
    })) as { result: { value: string } };
    const { heapUsed, external, arrayBuffers } = JSON.parse(result.value) as ThreadHeap;
    return { heapUsed, external, arrayBuffers };
  }

  #hear({ id, method, params, result }: Message, thread: 'main' | 'worker'): void {
    if (method === 'NodeWorker.attachedToWorker') this.#session = params?.sessionId ?? null;
    if (method === 'NodeWorker.receivedMessageFromWorker')
      this.#hear(JSON.parse(params?.message ?? '{}') as Message, 'worker');
    if (id !== undefined) this.#answers.get(`${thread} ${id}`)?.(result);
  }

  #call(thread: 'main' | 'worker', method: string, params: object): Promise<unknown> {
    const id = ++this.#id;
    const message = JSON.stringify({ id, method, params });
    const answer = new Promise((resolve) => this.#answers.set(`${thread} ${id}`, resolve));
    if (thread === 'main') this.#socket.send(message);
    else {
      const wrapped = { sessionId: this.#session, message };
      this.#socket.send(
        JSON.stringify({ id: ++this.#id, method: 'NodeWorker.sendMessageToWorker', params: wrapped }),
      );
    }
    return answer.finally(() => this.#answers.delete(`${thread} ${id}`));
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
