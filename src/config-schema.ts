/** The configuration's keys: types, ranges, defaults and what each is for. */
import { z } from 'zod';
import { describe } from './validation.ts';

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** A number of bytes: an integer, or text such as "16MiB". */
function bytes(minimum: number) {
  return z
    .union([z.int(), z.string()], { error: 'expected a number of bytes such as 1048576 or "1MiB"' })
    .transform((value, context) => {
      const match = typeof value === 'string' ? /^(\d+) ?([KMGT]iB)?$/.exec(value) : null;
      const size = match ? Number(match[1]) * (UNITS[match[2] ?? ''] ?? Number.NaN) : value;
      if (typeof size === 'number' && Number.isSafeInteger(size) && size >= minimum) return size;
      context.addIssue({
        code: 'custom',
        message: `expected at least ${minimum} bytes, as an integer or text such as "16MiB", got ${describe(value)}`,
      });
      return z.NEVER;
    });
}

/** The setting that leaves nothing out; no preset may be called so. */
export const NO_PRUNING = 'none';

/** Safe in headers, logs and labels of metrics. */
const PRESET_NAME = /^[A-Za-z0-9][\w.-]{0,63}$/;

/** A named value of the `pruning` field; what is in it is checked against the model. */
export const presetSchema = z.strictObject({
  summary: z.string().default(''),
  pruning: z.record(z.string(), z.unknown()),
});

const DEFAULT_EXPECTED = "expected a preset's name or an object";

/** What a header can carry and a comma-separated list can hold. */
export const API_KEY = /^[!-+\--~]{1,512}$/;

/** By a check of its own, since messages of others quote what they got. */
const apiKey = z.custom<string>(
  (value) => typeof value === 'string' && API_KEY.test(value),
  'expected keys of visible ASCII characters, without commas',
);

/** As browsers write it: scheme, host, and a port other than the scheme's own. */
function isOrigin(text: string): boolean {
  if (!/^[a-z][a-z0-9+.-]*:\/\/[^\s/?#@*]+$/.test(text) || !URL.canParse(text)) return false;
  return /^https?:/.test(text) ? new URL(text).origin === text : true;
}

/** A host as URLs spell it, with a port if that is not the scheme's own. */
function isHost(text: string): boolean {
  return /^[^\s/?#@*\\]+$/.test(text) && URL.canParse(`https://${text}`);
}

const filePath = z.string().min(1).nullable().default(null);

const milliseconds = (minimum: number) =>
  z
    .int()
    .min(minimum)
    .max(2 ** 31 - 1);

/** What requests get that do not say. */
const pruningDefault = z.union(
  [z.string().regex(PRESET_NAME, DEFAULT_EXPECTED), presetSchema.shape.pruning],
  DEFAULT_EXPECTED,
);

/** What can differ from model to model; absent keys are as at the top. */
const modelBlock = z.strictObject({
  /** Folder or hub id of a further model; absent in the block of the model named by `model` at the top. */
  model: z.string().min(1).optional(),
  precision: z.enum(['int8', 'fp32']).optional(),
  threads: z.int().min(1).max(1024).optional(),
  kv: z.strictObject({ max_bytes: bytes(1).optional() }).optional(),
  prefix_cache: z.strictObject({ max_bytes: bytes(0).optional() }).optional(),
  queue: z.strictObject({ max_running: z.int().min(1).optional() }).optional(),
  pruning: z.strictObject({ default: pruningDefault.optional() }).optional(),
  policies: z
    .strictObject({ duo_attention: z.strictObject({ pattern: z.string().min(1).optional() }).optional() })
    .optional(),
  /** When it is loaded (default: at the start). */
  load: z.enum(['start', 'first_use']).optional(),
  /** Idle time after which it is unloaded until it is used again; absent = never. */
  unload_after_ms: milliseconds(1).optional(),
});

/** File keys are snake_case; a nested key `queue.max_running` is `--queue-max-running` and `COPPICE_QUEUE_MAX_RUNNING`. */
export const configSchema = z.strictObject({
  host: z.string().min(1).default('127.0.0.1').describe('address to listen on'),
  port: z.int().min(0).max(65535).default(8000).describe('TCP port; 0 picks a free one'),
  model: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe('model folder or hub id (default: the demo model)'),
  precision: z.enum(['int8', 'fp32']).default('int8').describe('arithmetic of the linear layers'),
  threads: z
    .int()
    .min(1)
    .max(1024)
    .nullable()
    .default(null)
    .describe('compute threads (default: one a core)'),
  cache_dir: z.string().min(1).nullable().default(null).describe('folder for built graphs and pulled models'),
  api_keys: z.array(apiKey).default([]).describe('keys that clients must show one of; none = open to all'),
  api_keys_file: filePath.describe('file with a key a line, read again when it changes'),
  tls: z
    .strictObject({
      cert_file: filePath.describe('certificate chain in PEM; with tls.key_file the server speaks https'),
      key_file: filePath.describe('private key in PEM'),
    })
    .prefault({}),
  cors: z
    .strictObject({
      origins: z
        .array(
          z
            .string()
            .refine(
              (text) => text === '*' || isOrigin(text),
              'expected an origin without a path, such as https://example.org, or "*"',
            ),
        )
        .default([])
        .describe('origins whose pages may call, such as https://example.org; "*" = all'),
    })
    .prefault({}),
  limits: z
    .strictObject({
      body_bytes: bytes(1)
        .default(16 * 2 ** 20)
        .describe('largest request body'),
      frame_bytes: bytes(1)
        .default(16 * 2 ** 20)
        .describe('largest WebSocket frame'),
      image_bytes: bytes(1)
        .default(8 * 2 ** 20)
        .describe('largest image, as a file'),
      header_bytes: bytes(1024)
        .default(16 * 2 ** 10)
        .describe('headers of one request'),
    })
    .prefault({}),
  images: z
    .strictObject({
      allowed_hosts: z
        .array(
          z
            .string()
            .refine(isHost, 'expected a host such as example.org, or host:port, without scheme and path'),
        )
        .default([])
        .describe('hosts that images may be fetched from; none = images only inside requests'),
    })
    .prefault({}),
  websocket: z
    .strictObject({
      max_connections: z.int().min(0).default(256).describe('WebSocket connections at once; 0 = off'),
      max_streams: z.int().min(1).default(16).describe('lanes of one connection'),
      ping_ms: milliseconds(10).default(15_000).describe('time between pings; who misses one is cut off'),
    })
    .prefault({}),
  queue: z
    .strictObject({
      max_running: z.int().min(1).default(64).describe('sequences that run at once'),
      max_requests: z.int().min(0).default(256).describe('requests that may wait beside those that run'),
      max_tokens: z.int().min(1).nullable().default(null).describe('prompt tokens that may wait'),
      max_per_key: z.int().min(1).nullable().default(null).describe('requests at once of one API key'),
    })
    .prefault({}),
  kv: z
    .strictObject({
      max_bytes: bytes(1)
        .nullable()
        .default(null)
        .describe('KV memory (default: a quarter of what there is)'),
    })
    .prefault({}),
  prefix_cache: z
    .strictObject({
      max_bytes: bytes(0).nullable().default(null).describe('part of it for prefix reuse; 0 = off'),
    })
    .prefault({}),
  sse: z
    .strictObject({ ping_ms: milliseconds(1).default(10_000).describe('time between keep-alive comments') })
    .prefault({}),
  shutdown: z
    .strictObject({ timeout_ms: milliseconds(0).default(30_000).describe('time for running work to end') })
    .prefault({}),
  pruning: z
    .strictObject({
      default: pruningDefault
        .default(NO_PRUNING)
        .describe('what requests leave out that do not say: a preset, or an object as in requests'),
      presets: z
        .record(
          z
            .string()
            .regex(PRESET_NAME, 'expected a name of up to 64 letters, digits and "._-"')
            .refine((name) => name !== NO_PRUNING, `expected another name than "${NO_PRUNING}"`),
          presetSchema,
        )
        .default({})
        .describe('presets of your own: {"<name>": {"summary": "...", "pruning": {...}}}'),
    })
    .prefault({}),
  models: z
    .record(z.string().min(1), modelBlock)
    .default({})
    .describe(
      'by the name of a model, what goes before the above: {"<name>": {"model": "<folder>", "pruning": {"default": "fast"}}}',
    ),
  policies: z
    .strictObject({
      duo_attention: z
        .strictObject({
          pattern: z
            .string()
            .min(1)
            .nullable()
            .default(null)
            .describe('folder with the DuoAttention pattern (default: duo-attention in the model folder)'),
        })
        .prefault({}),
    })
    .prefault({}),
  metrics: z
    .strictObject({
      compat: z
        .array(z.enum(['vllm']))
        .default([])
        .describe('servers whose names of metrics are shown as well: "vllm"'),
      public: z.boolean().default(false).describe('show them without a key'),
    })
    .prefault({}),
  tracing: z
    .strictObject({
      otlp_endpoint: z
        .string()
        .regex(/^https?:\/\//, 'expected an http or https URL')
        .nullable()
        .default(null)
        .describe('OpenTelemetry collector (OTLP over HTTP) that a trace of each request goes to'),
    })
    .prefault({}),
  responses: z
    .strictObject({
      max_bytes: bytes(0)
        .default(64 * 2 ** 20)
        .describe('memory for stored responses; the oldest go first'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z
        .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
        .default('info')
        .describe('least severe level that is written'),
      prompts: z.boolean().default(false).describe('write prompt and completion text into the log'),
    })
    .prefault({}),
});
