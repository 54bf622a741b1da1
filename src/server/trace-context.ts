/** The caller's place in a trace, as the headers of W3C Trace Context (https://www.w3.org/TR/trace-context/) say it. */

export interface TraceParent {
  /** 32 hexadecimal digits. */
  readonly traceId: string;
  /** The caller's span: 16 hexadecimal digits. */
  readonly spanId: string;
  /** The caller records its part. */
  readonly isSampled: boolean;
  /** What other tracing systems passed along, as it came. */
  readonly state: string | undefined;
}

/** Headers as the carrier gives them. */
export interface TraceHeaders {
  readonly traceparent: string | undefined;
  readonly tracestate: string | undefined;
}

/** Of headers as Node gives them, which joins repeated ones. */
export function traceHeaders(headers: Readonly<Record<string, string | string[] | undefined>>): TraceHeaders {
  const { traceparent, tracestate } = headers;
  return {
    traceparent: typeof traceparent === 'string' ? traceparent : undefined,
    tracestate: typeof tracestate === 'string' ? tracestate : undefined,
  };
}

const FIELDS = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/;
const SAMPLED = 1;

/** Null without a valid `traceparent`: then a new trace begins, as the specification asks. */
export function readTraceParent({ traceparent, tracestate }: TraceHeaders): TraceParent | null {
  const fields = FIELDS.exec(traceparent ?? '');
  if (fields === null) return null;
  const [, version, traceId = '', spanId = '', flags = '', rest] = fields;
  // Later versions may add fields behind those of the first.
  const isKnown = version !== 'ff' && (version !== '00' || rest === undefined);
  if (!isKnown || /^0+$/.test(traceId) || /^0+$/.test(spanId)) return null;
  return {
    traceId,
    spanId,
    isSampled: (Number.parseInt(flags, 16) & SAMPLED) === SAMPLED,
    state: tracestate,
  };
}
