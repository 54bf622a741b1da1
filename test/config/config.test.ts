/** Configuration: precedence of sources, strictness, sizes, and that every key can be changed from every source. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { configKeys, loadConfig } from '../../src/config.ts';
import { AppError } from '../../src/errors.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'coppice-config-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function file(content: unknown, name = 'config.json'): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

function at(config: unknown, path: string): unknown {
  return path.split('.').reduce<unknown>((node, name) => (node as Record<string, unknown>)[name], config);
}

/** As it is typed in a flag or variable. */
function typed(value: unknown): string {
  if (Array.isArray(value)) return value.join(',');
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function nested(path: string, value: unknown): unknown {
  return path.split('.').reduceRight<unknown>((inner, name) => ({ [name]: inner }), value);
}

function failure(run: () => unknown): AppError {
  try {
    run();
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error('expected an error');
}

/** A value other than the default for every key: a key without one here fails the test below. */
const OTHER: Record<string, unknown> = {
  host: '0.0.0.0',
  port: 9001,
  model: 'org/name',
  precision: 'fp32',
  threads: 3,
  cache_dir: '/tmp/x',
  api_keys: ['first-key', 'second-key'],
  api_keys_file: '/tmp/keys',
  'tls.cert_file': '/tmp/cert.pem',
  'tls.key_file': '/tmp/key.pem',
  'cors.origins': ['https://example.org', 'https://example.com'],
  'limits.body_bytes': 1000,
  'limits.frame_bytes': 2000,
  'limits.image_bytes': 3000,
  'limits.header_bytes': 4000,
  'images.allowed_hosts': ['example.org'],
  'websocket.max_connections': 2,
  'websocket.max_streams': 3,
  'websocket.ping_ms': 1000,
  'queue.max_running': 5,
  'queue.max_requests': 6,
  'queue.max_tokens': 7000,
  'queue.max_per_key': 8,
  'kv.max_bytes': 123_456,
  'prefix_cache.max_bytes': 0,
  'pruning.default': 'balanced',
  models: { small: { pruning: { default: 'fast' } } },
  'pruning.presets': { mine: { summary: 'half', pruning: { kv: { policy: 'snapkv', keep: 0.5 } } } },
  'policies.duo_attention.pattern': '/tmp/pattern',
  'metrics.compat': ['vllm'],
  'metrics.public': true,
  'tracing.otlp_endpoint': 'http://127.0.0.1:4318',
  'responses.max_bytes': 5000,
  'sse.ping_ms': 50,
  'shutdown.timeout_ms': 0,
  'log.level': 'debug',
  'log.prompts': true,
};

describe('every key', () => {
  test.each(configKeys)('$path from file, environment and flag', ({ path, variable, flag }) => {
    const other = OTHER[path];
    const standard = at(loadConfig(), path);
    expect(other).toBeDefined();
    expect(standard).not.toEqual(other);
    expect(at(loadConfig({ file: file(nested(path, other)) }), path)).toEqual(other);
    expect(at(loadConfig({ env: { [variable]: typed(other) } }), path)).toEqual(other);
    expect(at(loadConfig({ flags: { [path]: typed(other) } }), path)).toEqual(other);
    expect(flag).toBe(path.replaceAll(/[._]/g, '-'));
  });
});

test('defaults < file < environment < flags', () => {
  const path = file({ port: 1, host: 'file', threads: 7, queue: { max_running: 2 } });
  const config = loadConfig({
    file: path,
    env: { COPPICE_PORT: '2', COPPICE_HOST: 'env', PATH: '/bin' },
    flags: { port: '3', precision: undefined },
  });
  expect(config).toMatchObject({
    port: 3,
    host: 'env',
    threads: 7,
    precision: 'int8',
    queue: { max_running: 2 },
  });
});

test('COPPICE_CONFIG names the file unless a flag does', () => {
  const one = file({ port: 1 }, 'one.json');
  const two = file({ port: 2 }, 'two.json');
  expect(loadConfig({ env: { COPPICE_CONFIG: one } }).port).toBe(1);
  expect(loadConfig({ env: { COPPICE_CONFIG: one }, file: two }).port).toBe(2);
});

test('an empty variable counts as unset', () => {
  expect(loadConfig({ env: { COPPICE_PORT: '', COPPICE_CONFIG: '' } }).port).toBe(8000);
});

test('text that looks like a number stays text where text is meant', () => {
  expect(loadConfig({ flags: { model: '123', host: 'true' } })).toMatchObject({ model: '123', host: 'true' });
});

test.each([
  ['1024', 1024],
  ['16MiB', 16 * 2 ** 20],
  ['2 GiB', 2 * 2 ** 30],
])('sizes: %s', (text, bytes) => {
  expect(loadConfig({ flags: { 'kv.max_bytes': text } }).kv.max_bytes).toBe(bytes);
});

describe('pruning', () => {
  test('the default may be an object, in a file and as JSON in a variable', () => {
    const value = { tokens: 'lazyllm', kv: { policy: 'snapkv', keep: 0.5 } };
    expect(loadConfig({ file: file({ pruning: { default: value } }) }).pruning.default).toEqual(value);
    const env = { COPPICE_PRUNING_DEFAULT: JSON.stringify(value) };
    expect(loadConfig({ env }).pruning.default).toEqual(value);
  });

  test('nothing is left out by default, and a preset needs no summary', () => {
    const presets = { mine: { pruning: {} } };
    expect(loadConfig({ file: file({ pruning: { presets } }) }).pruning).toEqual({
      default: 'none',
      presets: { mine: { summary: '', pruning: {} } },
    });
  });

  test('names that look like other values stay names', () => {
    expect(loadConfig({ flags: { 'pruning.default': 'true' } }).pruning.default).toBe('true');
    expect(loadConfig({ flags: { 'pruning.default': '5' } }).pruning.default).toBe('5');
  });

  test.each([
    [{ default: 5 }, 'pruning.default', /preset's name or an object, got 5/],
    [{ default: 'a b' }, 'pruning.default', /preset's name or an object, got "a b"/],
    [{ default: ['x'] }, 'pruning.default', /a list of 1/],
    [{ presets: { none: { pruning: {} } } }, 'pruning.presets.none', /another name than "none"/],
    [{ presets: { 'a b': { pruning: {} } } }, 'pruning.presets.a b', /letters, digits/],
    [{ presets: { ['x'.repeat(65)]: { pruning: {} } } }, `pruning.presets.${'x'.repeat(65)}`, /up to 64/],
    [{ presets: { mine: {} } }, 'pruning.presets.mine.pruning', /got nothing/],
    [{ presets: { mine: { pruning: 'balanced' } } }, 'pruning.presets.mine.pruning', /got "balanced"/],
    [{ presets: { mine: { pruning: {}, extra: 1 } } }, 'pruning.presets.mine.extra', /expected no key/],
  ])('%j', (pruning, param, message) => {
    const error = failure(() => loadConfig({ file: file({ pruning }) }));
    expect(error).toMatchObject({ errorCode: 'startup', param });
    expect(error.message).toMatch(message);
  });

  test('JSON that is broken is named with its source', () => {
    const error = failure(() => loadConfig({ flags: { 'pruning.default': '{"kv":' } }));
    expect(error.message).toMatch(/pruning\.default: .*got "\{\\"kv\\":" \(flag --pruning-default\)/);
  });
});

test('the configuration is frozen throughout', () => {
  const config = loadConfig();
  expect(Object.isFrozen(config)).toBe(true);
  expect(Object.isFrozen(config.log)).toBe(true);
});

test.each([
  'example.org',
  'https://example.org/path',
  'https://example.org?x',
  'https://user@example.org',
  'https://example.org:443',
  'https://Example.org',
  'https://*.example.org',
  'https://a b',
  'http://[::1]:80',
  'null',
  '',
])('no origin: %j', (origin) => {
  const sources = { file: file({ cors: { origins: [origin] } }) };
  expect(failure(() => loadConfig(sources)).param).toBe('cors.origins[0]');
});

test.each(['*', 'http://localhost:3000', 'https://example.org:8443', 'http://[::1]:81', 'app://obsidian.md'])(
  'an origin: %j',
  (origin) => {
    const sources = { file: file({ cors: { origins: [origin] } }) };
    expect(loadConfig(sources).cors.origins).toEqual([origin]);
  },
);

test.each([
  'a b',
  '*.example.org',
  'example.org/x',
  'user@example.org',
  'http://example.org',
  '',
  'example.org:99999',
])('no host: %j', (host) => {
  const sources = { file: file({ images: { allowed_hosts: [host] } }) };
  expect(failure(() => loadConfig(sources)).param).toBe('images.allowed_hosts[0]');
});

test.each([
  { api_keys: ['sk secret'] },
  { api_keys: 'sk-secret' },
  { api_keys: [['sk-secret']] },
  { api_keys: ['a,sk-secret'] },
])('a message about keys holds none: %j', (content) => {
  const error = failure(() => loadConfig({ file: file(content) }));
  expect(error.message).toMatch(/^configuration key api_keys/);
  expect(error.message).not.toMatch(/secret/);
});

describe('errors name the key and its source', () => {
  test.each([
    [{ flags: { port: 'x' } }, /port: expected number, got "x" \(flag --port\)/, 'port'],
    [{ flags: { port: '70000' } }, /port: .*65535, got 70000/, 'port'],
    [
      { env: { COPPICE_LOG_LEVEL: 'loud' } },
      /log\.level: .*"loud" \(environment variable COPPICE_LOG_LEVEL\)/,
      'log.level',
    ],
    [{ flags: { 'kv.max_bytes': '2GB' } }, /kv\.max_bytes: .*got "2GB"/, 'kv.max_bytes'],
    [{ flags: { 'kv.max_bytes': '-1' } }, /kv\.max_bytes/, 'kv.max_bytes'],
    [
      { flags: { 'metrics.compat': 'vllm, tgi' } },
      /metrics\.compat\[1\]: .*"vllm".*"tgi" \(flag --metrics-compat\)/,
      'metrics.compat[1]',
    ],
    [
      { flags: { 'cors.origins': 'https://example.org,https://example.org/' } },
      /cors\.origins\[1\]: expected an origin without a path/,
      'cors.origins[1]',
    ],
    [
      { flags: { 'images.allowed_hosts': 'https://a.org' } },
      /expected a host such as/,
      'images.allowed_hosts[0]',
    ],
    [{ env: { COPPICE_TYPO: '1' } }, /unknown configuration key.*COPPICE_TYPO/, null],
  ])('%j', (sources, message, param) => {
    const error = failure(() => loadConfig(sources));
    expect(error.errorCode).toBe('startup');
    expect(error.message).toMatch(message);
    expect(error.param).toBe(param);
  });

  test.each([
    [{ prot: 1 }, 'prot'],
    [{ queue: { max_runing: 1 } }, 'queue.max_runing'],
    [{ bogus: {} }, 'bogus'],
    [{ port: {} }, 'port'],
    [{ log: 5 }, 'log'],
    [{ policies: { duo: {} } }, 'policies.duo'],
  ])('file %j', (content, param) => {
    const path = file(content);
    const error = failure(() => loadConfig({ file: path, env: { COPPICE_LOG_PROMPTS: 'true' } }));
    expect(error.param).toBe(param);
    expect(error.message).toContain(path);
  });

  test.each(['{', '[]', 'null', '"x"'])('file that holds %s', (content) => {
    const path = file(content);
    expect(failure(() => loadConfig({ file: path })).message).toContain(path);
  });

  test('file that is not there', () => {
    expect(failure(() => loadConfig({ file: join(folder, 'none.json') })).message).toContain('none.json');
  });
});
