/** A tiny OpenTelemetry collector: takes traces as OTLP in JSON and keeps them. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { z } from 'zod';

const value = z.union([
  z.object({ stringValue: z.string() }).transform((v): unknown => v.stringValue),
  z.object({ intValue: z.coerce.number() }).transform((v): unknown => v.intValue),
  z.object({ doubleValue: z.number() }).transform((v): unknown => v.doubleValue),
  z.object({ boolValue: z.boolean() }).transform((v): unknown => v.boolValue),
  z
    .object({ arrayValue: z.object({ values: z.array(z.object({ stringValue: z.string() })) }) })
    .transform((v): unknown => v.arrayValue.values.map((entry) => entry.stringValue)),
]);
const attributes = z
  .array(z.object({ key: z.string(), value }))
  .transform((list): Record<string, unknown> =>
    Object.fromEntries(list.map((entry) => [entry.key, entry.value])),
  );
const span = z
  .object({
    traceId: z.string(),
    spanId: z.string(),
    parentSpanId: z.string().optional(),
    traceState: z.string().optional(),
    name: z.string(),
    /** 1 = internal, 2 = server. */
    kind: z.number(),
    startTimeUnixNano: z.string(),
    endTimeUnixNano: z.string(),
    attributes,
    status: z.object({ code: z.number() }),
  })
  .transform(({ startTimeUnixNano, endTimeUnixNano, ...rest }) => ({
    ...rest,
    startMs: Number(startTimeUnixNano) / 1e6,
    endMs: Number(endTimeUnixNano) / 1e6,
  }));
const body = z.object({
  resourceSpans: z.array(
    z.object({ resource: z.object({ attributes }), scopeSpans: z.array(z.object({ spans: z.array(span) })) }),
  ),
});

export type CollectedSpan = z.infer<typeof span>;

export interface Trace {
  readonly root: CollectedSpan;
  /** In the order of their start. */
  readonly children: CollectedSpan[];
}

export class Collector {
  readonly spans: CollectedSpan[] = [];
  readonly resources: Record<string, unknown>[] = [];
  readonly paths: string[] = [];
  /** Everything that came, as it came. */
  text = '';
  readonly url: string;
  readonly #server;

  /** @param answer status of its replies; null = it never answers */
  static async start(answer: number | null = 200): Promise<Collector> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Collector(server, answer);
  }

  private constructor(server: ReturnType<typeof createServer>, answer: number | null) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('request', (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        this.#take(request.url ?? '', Buffer.concat(chunks).toString());
        if (answer !== null) response.writeHead(answer, { 'content-type': 'application/json' }).end('{}');
      });
    });
  }

  #take(path: string, text: string): void {
    this.paths.push(path);
    this.text += text;
    for (const { resource, scopeSpans } of body.parse(JSON.parse(text)).resourceSpans) {
      this.resources.push(resource.attributes);
      this.spans.push(...scopeSpans.flatMap(({ spans }) => spans));
    }
  }

  /** The request's trace once its span is there; all spans of a request come together. */
  async trace(requestId: string): Promise<Trace> {
    const deadlineMs = performance.now() + 30_000;
    for (;;) {
      const root = this.spans.find((one) => one.attributes['coppice.request.id'] === requestId);
      if (root !== undefined) {
        const children = this.spans.filter((one) => one.parentSpanId === root.spanId);
        return { root, children: children.sort((a, b) => a.startMs - b.startMs) };
      }
      if (performance.now() > deadlineMs) throw new Error(`no trace of ${requestId}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async close(): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, 'close');
  }
}
