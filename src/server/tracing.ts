/** Sends a trace of each generating request to an OpenTelemetry collector; without one, neither SDK nor exporter is loaded. */
import { randomUUID } from 'node:crypto';
import type * as Api from '@opentelemetry/api';
import type { Context, SpanContext, Tracer } from '@opentelemetry/api';
import type { SpanExporter } from '@opentelemetry/sdk-trace-base';
import type { MiddlewareHandler } from 'hono';
import { AppError, errorMessage } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { AppEnv } from './context.ts';
import type { RequestRecord } from './request-record.ts';
import { isTraced, requestTrace } from './request-trace.ts';
import type { TraceOrigin } from './request-trace.ts';
import { readTraceParent } from './trace-context.ts';
import type { TraceHeaders, TraceParent } from './trace-context.ts';
import { withinMs } from './within-ms.ts';

export interface Tracing {
  /** Traces the request once its record ends. */
  watch(record: RequestRecord, origin: TraceOrigin, headers: TraceHeaders): void;
  /** Sends what has not been sent, or gives up after `timeoutMs`; never rejects. */
  close(timeoutMs: number): Promise<void>;
}

export interface TracingOptions {
  readonly logger: Logger;
  /** Of this program. */
  readonly version: string;
  /** Time after which spans are sent that wait for others to be sent with. */
  readonly batchMs?: number;
}

/** For one batch, with all its attempts. */
const EXPORT_TIMEOUT_MS = 5000;
const BATCH_MS = 2000;
/** Time between two warnings. */
const WARN_MS = 60_000;
/** Where a collector takes traces, below its address. */
const TRACES_PATH = '/v1/traces';

/**
 * @param endpoint the collector's address, or the whole URL that takes traces; null = no tracing
 * @throws AppError `startup` for an address that is none
 */
export async function createTracing(
  endpoint: string | null,
  { logger, version, batchMs = BATCH_MS }: TracingOptions,
): Promise<Tracing | null> {
  if (endpoint === null) return null;
  const url = tracesUrl(endpoint);
  const [api, { OTLPTraceExporter }, resources, sdk] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
    import('@opentelemetry/sdk-trace-base'),
  ]);
  const exporter = warningExporter(new OTLPTraceExporter({ url, timeoutMillis: EXPORT_TIMEOUT_MS }), logger);
  const resource = resources
    .resourceFromAttributes({
      'service.name': 'coppice',
      'service.version': version,
      'service.instance.id': randomUUID(),
    })
    .merge(resources.detectResources({ detectors: [resources.envDetector] }));
  const provider = new sdk.BasicTracerProvider({
    resource,
    sampler: new sdk.ParentBasedSampler({ root: new sdk.AlwaysOnSampler() }),
    spanProcessors: [new sdk.BatchSpanProcessor(exporter, { scheduledDelayMillis: batchMs })],
  });
  const tracer = provider.getTracer('coppice', version);
  return {
    watch(record, origin, headers) {
      const parent = readTraceParent(headers);
      const context =
        parent === null
          ? api.ROOT_CONTEXT
          : api.trace.setSpanContext(api.ROOT_CONTEXT, parentContext(api, parent));
      record.onEnd(() => {
        sendTrace(api, tracer, context, record, origin);
      });
    },
    async close(timeoutMs) {
      // The exporter has warned of what could not be sent.
      const sent = provider.shutdown().catch(() => undefined);
      await withinMs(sent, timeoutMs);
    },
  };
}

/** @throws AppError `startup` */
function tracesUrl(endpoint: string): string {
  if (!URL.canParse(endpoint)) {
    const param = 'tracing.otlp_endpoint';
    throw new AppError(
      'startup',
      `configuration key ${param}: expected a URL such as http://localhost:4318`,
      {
        param,
      },
    );
  }
  const url = new URL(endpoint);
  const path = url.pathname.replace(/\/+$/, '');
  url.pathname = path.endsWith(TRACES_PATH) ? path : path + TRACES_PATH;
  return url.href;
}

function parentContext(api: typeof Api, { traceId, spanId, isSampled, state }: TraceParent): SpanContext {
  return {
    traceId,
    spanId,
    isRemote: true,
    traceFlags: isSampled ? api.TraceFlags.SAMPLED : api.TraceFlags.NONE,
    ...(state !== undefined && { traceState: api.createTraceState(state) }),
  };
}

/** All spans are made when all is known, with the times at which things were. */
function sendTrace(
  { SpanKind, SpanStatusCode, trace }: typeof Api,
  tracer: Tracer,
  parent: Context,
  record: RequestRecord,
  origin: TraceOrigin,
): void {
  const request = requestTrace(record, origin, performance.now());
  // One for all spans of the request: clocks drift apart.
  const epochMs = Date.now() - performance.now();
  const { name, attributes, startMs, endMs } = request;
  const span = tracer.startSpan(
    name,
    { kind: SpanKind.SERVER, attributes, startTime: epochMs + startMs },
    parent,
  );
  if (request.hasFailed) span.setStatus({ code: SpanStatusCode.ERROR });
  const context = trace.setSpan(parent, span);
  for (const phase of request.phases) {
    const child = tracer.startSpan(phase.name, { startTime: epochMs + phase.startMs }, context);
    child.end(epochMs + phase.endMs);
  }
  span.end(epochMs + endMs);
}

/** Says when spans are lost, and not each time. */
function warningExporter(exporter: SpanExporter, logger: Logger): SpanExporter {
  let warnedMs = -Infinity;
  let numLost = 0;
  return {
    export(spans, done) {
      exporter.export(spans, (result) => {
        done(result);
        if (result.error === undefined) return;
        numLost += spans.length;
        if (performance.now() - warnedMs < WARN_MS) return;
        warnedMs = performance.now();
        logger.warn(
          { reason: errorMessage(result.error), numLost },
          'traces could not be sent to tracing.otlp_endpoint',
        );
        numLost = 0;
      });
    },
    shutdown: () => exporter.shutdown(),
  };
}

/** Behind the check of keys: nobody else fills the collector. */
export function traceRequests(tracing: Tracing): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const { method, path } = c.req;
    if (method === 'POST' && isTraced(path)) {
      const origin = { requestId: c.get('requestId'), path, method, status: () => c.res.status };
      const headers = { traceparent: c.req.header('traceparent'), tracestate: c.req.header('tracestate') };
      tracing.watch(c.get('record'), origin, headers);
    }
    await next();
  };
}
