/** The command line as a user meets it: the compiled program, its output, its exit codes. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const MAIN = join(import.meta.dirname, '../../dist/main.js');
const DEMO_MODEL = join(import.meta.dirname, '../../models/coppice-recall');

let folder: string;
const running = new Set<ChildProcess>();
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'coppice-cli-'));
  // Builds the demo model's graphs: from then on loading has no progress to report on standard error.
  await run(['generate', '--max-tokens', '1', 'x']);
});
afterAll(() => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function start(args: string[], env: Record<string, string> = {}) {
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: folder,
    env: { PATH, HOME, COPPICE_CACHE_DIR: join(folder, 'cache'), ...env },
  });
  running.add(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => {
    // Whichever test comes first converts the model and shows it.
    output.stderr += chunk.toString().replace(/^converting to int8: \d+ %\n/gm, '');
  });
  const exit = once(child, 'close').then(([code]) => {
    running.delete(child);
    return code as number | null;
  });
  return { child, output, exit };
}

async function run(args: string[], { env = {}, stdin = '' } = {}) {
  const { child, output, exit } = start(args, env);
  child.stdin.end(stdin);
  return { code: await exit, ...output };
}

/** A started server and its address. */
async function serve(args: string[] = [], env: Record<string, string> = {}) {
  const started = start(['serve', '--port', '0', ...args], env);
  const ready = /coppice is ready at (http:\S+)\n/;
  await expect.poll(() => started.output.stdout, { timeout: 30_000 }).toMatch(ready);
  return { ...started, url: ready.exec(started.output.stdout)?.[1] ?? '' };
}

const chat = (url: string, body: object) =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content: 'hello' }], ...body }),
  });

test('--version', async () => {
  expect(await run(['--version'])).toEqual({ code: 0, stdout: '0.1.0\n', stderr: '' });
});

test('--help of every command', async () => {
  for (const command of ['serve', 'generate', 'pull']) {
    const { code, stdout } = await run([command, '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('--config <file>');
  }
});

describe('mistakes: one line, exit code 1, no stack trace', () => {
  async function expectMistake(
    args: string[],
    pattern: RegExp,
    env: Record<string, string> = {},
  ): Promise<void> {
    const { code, stdout, stderr } = await run(args, { env });
    expect({ code, stderr }).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^coppice: [^\n]+\n$/) as string,
    });
    expect(stderr).toMatch(pattern);
    expect(stdout).not.toContain('ready');
  }

  test.each([
    [['serve', '--bogus'], /unknown option '--bogus'/],
    [['serve', '--prot', '1'], /unknown option '--prot'/],
    [['bogus'], /unknown command 'bogus'/],
    [['serve', '--port'], /argument missing/],
    [['serve', '--port', 'x'], /port: expected number, got "x"/],
    [['serve', '--model', '/no/such/folder'], /\/no\/such\/folder not found/],
    [['serve', '--model', 'org/name'], /org\/name not found.*coppice pull org\/name/],
    [['serve', '--config', '/no/such/file.json'], /\/no\/such\/file\.json/],
    [['generate'], /missing required argument 'prompt'/],
    [['generate', '--temperature', '9', 'x'], /--temperature: .*got 9/],
    [['generate', '--max-tokens', 'many', 'x'], /--max-tokens/],
    [['generate', '--max-tokens', '9000', 'x'], /8192.*got 90\d\d/],
    [['generate', '--pruning', 'no-such', 'x'], /--pruning: expected one of "none", "balanced".*"no-such"/],
    [['generate', '--pruning', '{"kv":', 'x'], /--pruning: expected a preset's name or valid JSON/],
    [['generate', '--pruning', '{"kv":"no-such"}', 'x'], /--pruning\.kv\.policy: .*"snapkv".*"no-such"/],
    [['generate', '--pruning', '{"kv":{"policy":"snapkv","keep":2}}', 'x'], /--pruning\.kv\.keep: .*got 2/],
    [
      ['serve', '--port', '0', '--models', '{"coppice-recall":{"pruning":{"default":"no-such"}}}'],
      /pruning\.default: .*"none".*got "no-such"/,
    ],
    [['serve', '--port', '0', '--pruning-default', 'no-such'], /pruning\.default: .*"none".*got "no-such"/],
    [
      ['serve', '--port', '0', '--pruning-default', '{"kv":{"policy":"snapkv","keep":2}}'],
      /pruning\.default\.kv\.keep: .*got 2/,
    ],
    [
      ['serve', '--policies-duo-attention-pattern', '/no/such'],
      /DuoAttention pattern in \/no\/such, got none/,
    ],
    [['serve', '--port', '0', '--api-keys-file', '/no/such'], /api_keys_file \/no\/such: ENOENT/],
    [['serve', '--port', '0', '--tls-cert-file', '/no/such'], /tls\.key_file: expected a file beside/],
    [['pull'], /missing required argument 'id'/],
    [['pull', 'not an id'], /not an id/],
  ])('%j', expectMistake);

  test('an unknown environment variable of ours', async () => {
    await expectMistake(['serve'], /COPPICE_PROT/, { COPPICE_PROT: '1' });
  });

  test('an empty model folder, a model file that is cut short', async () => {
    const empty = join(folder, 'empty');
    mkdirSync(empty);
    await expectMistake(['serve', '--port', '0', '--model', empty], /empty/);
    const broken = join(folder, 'broken');
    cpSync(DEMO_MODEL, broken, { recursive: true });
    truncateSync(join(broken, 'model.safetensors'), 1000);
    await expectMistake(['generate', '--model', broken, 'x'], /model\.safetensors/);
  });

  const breakFile = (name: string, change: (text: string) => string) => (dir: string) => {
    writeFileSync(join(dir, name), change(readFileSync(join(dir, name), 'utf8')));
  };

  test.each<[string, (dir: string) => void, RegExp]>([
    [
      'without config.json',
      (dir) => {
        rmSync(join(dir, 'config.json'));
      },
      /config\.json/,
    ],
    [
      'of an architecture that is not supported',
      breakFile('config.json', (text) => text.replace('"llama"', '"mamba"')),
      /model_type expected one of llama, .*got "mamba"/,
    ],
    [
      'with half a config.json',
      breakFile('config.json', (text) => text.slice(0, 100)),
      /config\.json: .*JSON/,
    ],
    [
      'without a tokenizer',
      (dir) => {
        rmSync(join(dir, 'tokenizer.json'));
      },
      /tokenizer\.json: expected a file, got none/,
    ],
    [
      'with half a tokenizer',
      breakFile('tokenizer.json', (text) => text.slice(0, 40_000)),
      /tokenizer\.json: .*JSON/,
    ],
    [
      'with weights whose header is damaged',
      breakFile('model.safetensors', () => 'no header, no tensors'),
      /model\.safetensors is not a valid safetensors file/,
    ],
    [
      'with empty weights',
      breakFile('model.safetensors', () => ''),
      /model\.safetensors.*at least 8 bytes, got 0/,
    ],
  ])('a model %s', async (name, change, pattern) => {
    const dir = join(folder, name.replaceAll(' ', '-'));
    cpSync(DEMO_MODEL, dir, { recursive: true });
    change(dir);
    await expectMistake(['serve', '--port', '0', '--model', dir], pattern);
  });

  test('a port in use', async () => {
    const holder = createServer().listen(0, '127.0.0.1');
    await once(holder, 'listening');
    const { port } = holder.address() as AddressInfo;
    await expectMistake(['serve', '--port', String(port)], new RegExp(`${port}.*EADDRINUSE`));
    holder.close();
  });
});

describe('generate', () => {
  test('the answer on standard output, a short report on standard error', async () => {
    const { code, stdout, stderr } = await run(['generate', 'What is the code of red?']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^\S.*\n$/);
    expect(stderr).toMatch(/^\d+ prompt tokens \(\d+ cached\), .*\d+ completion tokens, [\d.]+ tokens\/s\n$/);
  });

  test('the prompt from standard input is the same prompt', async () => {
    const fromArgument = await run(['generate', '--max-tokens', '5', 'What is the code of red?']);
    const fromStdin = await run(['generate', '--max-tokens', '5', '-'], {
      stdin: 'What is the code of red?',
    });
    expect(fromStdin.stdout).toBe(fromArgument.stdout);
    expect(fromStdin.stderr).toMatch(/\d+ prompt tokens/);
  });

  test('--raw, --seed and --temperature change what is said', async () => {
    const say = async (...args: string[]) =>
      run(['generate', '--max-tokens', '12', ...args, 'The code of red is nine. The code']);
    const raw = await say('--raw');
    const templated = await say();
    const promptTokens = (text: string) => Number(/^\d+/.exec(text)?.[0]);
    expect(promptTokens(raw.stderr)).toBeLessThan(promptTokens(templated.stderr));
    const hot = await say('--temperature', '2', '--seed', '1', '--raw');
    expect((await say('--temperature', '2', '--seed', '1', '--raw')).stdout).toBe(hot.stdout);
    expect((await say('--temperature', '2', '--seed', '2', '--raw')).stdout).not.toBe(hot.stdout);
  });

  test('--pruning, and the report of what was left out; the default of the configuration', async () => {
    const say = (args: string[], env: Record<string, string> = {}) =>
      run(['generate', '--max-tokens', '2', ...args, 'What is the code of red?'], { env });
    const report = /^\d+ prompt tokens .*\npruning: (\{.*\})\n$/;
    const reported = async (args: string[], env: Record<string, string> = {}): Promise<unknown> => {
      const { code, stderr } = await say(args, env);
      expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringMatching(report) as string });
      return JSON.parse(report.exec(stderr)?.[1] ?? '');
    };
    expect(await reported(['--pruning', 'none'])).toEqual({ preset: 'none' });
    expect(await reported(['--pruning', '{"kv":{"policy":"snapkv","keep":0.5}}'])).toMatchObject({
      preset: null,
    });
    const presets = JSON.stringify({ mine: { pruning: { kv: 'snapkv' } } });
    const env = { COPPICE_PRUNING_DEFAULT: 'mine', COPPICE_PRUNING_PRESETS: presets };
    expect(await reported([], env)).toMatchObject({ preset: 'mine' });
    expect((await say([])).stderr).not.toContain('pruning');
  });
});

test('a reader that closes the pipe ends a generation without an error', async () => {
  const { child, output, exit } = start(['generate', '--raw', '--max-tokens', '4000', 'x y z']);
  child.stdin.end();
  await once(child.stdout, 'data');
  child.stdout.destroy();
  expect(await exit).toBe(0);
  expect(output.stderr).toBe('');
});

describe('serve', () => {
  test('listens at once, is not ready while it loads, then answers', async () => {
    const { child, output, exit } = start(['serve', '--port', '0']);
    await expect.poll(() => output.stdout, { interval: 5, timeout: 30_000 }).toMatch(/"url":"http/);
    const url = /"url":"([^"]+)"/.exec(output.stdout)?.[1] ?? '';
    const [health, ready] = await Promise.all([fetch(`${url}/health`), fetch(`${url}/ready`)]);
    expect([health.status, ready.status]).toEqual([200, 503]);
    await expect.poll(() => output.stdout, { timeout: 30_000 }).toContain(`coppice is ready at ${url}\n`);
    expect((await fetch(`${url}/ready`)).status).toBe(200);
    expect((await chat(url, { max_tokens: 2 })).status).toBe(200);
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
    expect(output.stderr).toBe('');
  });

  test('flags, environment and file reach the server', async () => {
    const file = join(folder, 'config.json');
    writeFileSync(file, JSON.stringify({ limits: { body_bytes: 300 }, log: { level: 'silent' } }));
    const { url, output, child, exit } = await serve(['--config', file, '--precision', 'fp32'], {
      COPPICE_THREADS: '1',
    });
    expect((await chat(url, { user: 'x'.repeat(300) })).status).toBe(413);
    expect(output.stdout).toBe(`coppice is ready at ${url}\n`);
    child.kill('SIGINT');
    expect(await exit).toBe(0);
  });

  test('keys are asked for and stay out of the output', async () => {
    const file = join(folder, 'keys.txt');
    writeFileSync(file, '# ours\nsk-from-file\n');
    const { url, output, child, exit } = await serve(['--api-keys-file', file, '--log-level', 'trace'], {
      COPPICE_API_KEYS: 'sk-from-environment',
    });
    const status = async (key: string) =>
      (await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status;
    expect(await Promise.all(['sk-from-file', 'sk-from-environment', 'sk-other'].map(status))).toEqual([
      200, 200, 401,
    ]);
    expect((await fetch(`${url}/ready`)).status).toBe(200);
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
    expect(output.stdout + output.stderr).not.toContain('sk-');
  });

  test('SIGTERM lets running work end and refuses new work', async () => {
    const { url, child, exit, output } = await serve();
    const reply = await chat(url, { stream: true, max_tokens: 400, ignore_eos: true });
    child.kill('SIGTERM');
    await expect.poll(() => output.stdout, { interval: 5, timeout: 30_000 }).toContain('draining');
    expect((await chat(url, {})).status).toBe(503);
    expect(await reply.text()).toContain('[DONE]');
    expect(await exit).toBe(0);
  });

  test('what outlives shutdown.timeout_ms is cut off, and the exit is still clean', async () => {
    const { url, child, exit } = await serve(['--shutdown-timeout-ms', '100']);
    const reply = await chat(url, { stream: true, max_tokens: 8000, ignore_eos: true });
    const text = reply.text().catch(() => 'cut off');
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
    expect(await text).not.toContain('[DONE]');
  });

  test('a second signal exits at once', async () => {
    const { url, child, exit, output } = await serve();
    const reply = await chat(url, { stream: true, max_tokens: 8000, ignore_eos: true });
    reply.text().catch(() => undefined);
    child.kill('SIGTERM');
    await expect.poll(() => output.stdout, { interval: 5, timeout: 30_000 }).toContain('draining');
    const startedMs = performance.now();
    child.kill('SIGTERM');
    expect(await exit).toBe(143);
    expect(performance.now() - startedMs).toBeLessThan(10_000);
  });

  test.each([0, 150, 300])('a signal while the model loads, after %i ms', async (delayMs) => {
    const { child, exit, output } = start(['serve', '--port', '0']);
    await expect.poll(() => output.stdout, { interval: 5, timeout: 30_000 }).toMatch(/"url":"http/);
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
    expect(output.stderr).toBe('');
  });
});
