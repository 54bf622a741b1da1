/** The one table of error codes: what went wrong, its HTTP status and its OpenAI error type. */

const TABLE = {
  invalid_request: { status: 400, type: 'invalid_request_error', code: null },
  context_length_exceeded: { status: 400, type: 'invalid_request_error', code: 'context_length_exceeded' },
  unsupported_parameter: { status: 400, type: 'invalid_request_error', code: 'unsupported_parameter' },
  unsupported_value: { status: 400, type: 'invalid_request_error', code: 'unsupported_value' },
  invalid_api_key: { status: 401, type: 'authentication_error', code: 'invalid_api_key' },
  host_not_allowed: { status: 403, type: 'permission_error', code: 'host_not_allowed' },
  origin_not_allowed: { status: 403, type: 'permission_error', code: 'origin_not_allowed' },
  previous_response_not_found: {
    status: 400,
    type: 'invalid_request_error',
    code: 'previous_response_not_found',
  },
  model_not_found: { status: 404, type: 'invalid_request_error', code: 'model_not_found' },
  not_found: { status: 404, type: 'invalid_request_error', code: 'not_found' },
  method_not_allowed: { status: 405, type: 'invalid_request_error', code: 'method_not_allowed' },
  request_timeout: { status: 408, type: 'invalid_request_error', code: 'request_timeout' },
  body_too_large: { status: 413, type: 'invalid_request_error', code: 'body_too_large' },
  unsupported_media_type: { status: 415, type: 'invalid_request_error', code: 'unsupported_media_type' },
  headers_too_large: { status: 431, type: 'invalid_request_error', code: 'headers_too_large' },
  queue_full: { status: 429, type: 'rate_limit_error', code: 'queue_full' },
  websocket_stream_limit_reached: {
    status: 429,
    type: 'rate_limit_error',
    code: 'websocket_stream_limit_reached',
  },
  unknown_stream: { status: 404, type: 'invalid_request_error', code: 'unknown_stream' },
  model_loading: { status: 503, type: 'server_error', code: 'model_loading' },
  draining: { status: 503, type: 'server_error', code: 'draining' },
  kv_memory_exceeded: { status: 503, type: 'server_error', code: 'kv_memory_exceeded' },
  timeout: { status: 504, type: 'server_error', code: 'timeout' },
  internal: { status: 500, type: 'server_error', code: null },
  /** Wrong flag, folder or model file: never reaches a client, ends the process with exit code 1. */
  startup: { status: 500, type: 'server_error', code: null },
} as const;

export type ErrorCode = keyof typeof TABLE;

export function errorStatus(errorCode: ErrorCode): number {
  return TABLE[errorCode].status;
}

/** What metrics and logs call errors: their code, or their type where they have none. */
export function errorLabel(errorCode: ErrorCode): string {
  const { type, code } = TABLE[errorCode];
  return code ?? type;
}

export const ERROR_LABELS: readonly string[] = [
  ...new Set((Object.keys(TABLE) as ErrorCode[]).map(errorLabel)),
];

/** Labels of what is no fault of the request's. */
export const SERVER_FAULTS: ReadonlySet<string> = new Set(
  (Object.keys(TABLE) as ErrorCode[]).filter((code) => errorStatus(code) >= 500).map(errorLabel),
);

/** The `error` object of a reply: all four keys, always. */
export interface ErrorBody {
  message: string;
  type: string;
  param: string | null;
  code: string | null;
}

/** An error that a user can act on. Messages follow "expected ..., got ...". */
export class AppError extends Error {
  readonly errorCode: ErrorCode;
  /** Path of the offending field, such as `messages[0].role`. */
  readonly param: string | null;
  /** Whole seconds after which trying again may help; null = nobody knows. */
  readonly retryAfterSeconds: number | null;

  constructor(
    errorCode: ErrorCode,
    message: string,
    options: { param?: string | null; retryAfterSeconds?: number; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'AppError';
    this.errorCode = errorCode;
    this.param = options.param ?? null;
    this.retryAfterSeconds = options.retryAfterSeconds ?? null;
  }

  get status(): number {
    return errorStatus(this.errorCode);
  }

  /** What metrics and logs call it. */
  get label(): string {
    return errorLabel(this.errorCode);
  }

  toBody(): ErrorBody {
    const { type, code } = TABLE[this.errorCode];
    return { message: this.message, type, param: this.param, code };
  }
}

/** For a field whose value cannot be taken; the message goes on behind its name. */
export function invalidField(param: string, message: string): AppError {
  return new AppError('invalid_request', `${param}: ${message}`, { param });
}

/** Throws when our own assumption is wrong: a bug, not a user's mistake. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`invariant violated: ${message}`);
}

export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
