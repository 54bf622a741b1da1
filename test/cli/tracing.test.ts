/** What tracing costs a process: nothing when it is off, and no time at its end. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Collector } from '../server/support/collector.ts';

const MAIN = join(import.meta.dirname, '../../dist/main.js');
/** Reports at the end how many files of OpenTelemetry were loaded, those aside of the API, which prom-client loads. */
const COUNTING = `data:text/javascript,${encodeURIComponent(`
  import { createRequire } from 'node:module';
  import { isMainThread } from 'node:worker_threads';
  const { cache } = createRequire('/');
  if (isMainThread) process.on('exit', () => {
    const files = Object.keys(cache).filter((file) => /@opentelemetry.(?!api.)/.test(file));
    process.stderr.write('loaded ' + files.length + '\\n');
  });
`)}`;

let folder: string;
const running = new Set<ChildProcess>();
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'coppice-cli-'));
});
afterAll(() => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

/** Serves one request, or with `cutOff` the beginning of one, and ends. */
async function serveOnce(args: string[], cutOff = false) {
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(process.execPath, ['--import', COUNTING, MAIN, 'serve', '--port', '0', ...args], {
    cwd: folder,
    env: { PATH, HOME, COPPICE_CACHE_DIR: join(folder, 'cache') },
  });
  running.add(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  const closed = once(child, 'close');
  const ready = /coppice is ready at (http:\S+)\n/;
  await expect.poll(() => output.stdout, { timeout: 50_000 }).toMatch(ready);
  const reply = await fetch(`${ready.exec(output.stdout)?.[1] ?? ''}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-request-id': 'the-request' },
    body: JSON.stringify({
      prompt: 'x',
      ...(cutOff ? { stream: true, max_tokens: 8000, ignore_eos: true } : {}),
    }),
  });
  expect(reply.status).toBe(200);
  if (!cutOff) await reply.text();
  else reply.text().catch(() => undefined);
  child.kill('SIGTERM');
  const [code] = (await closed) as [number | null];
  running.delete(child);
  return { code, ...output, numLoaded: Number(/loaded (\d+)\n/.exec(output.stderr)?.[1]) };
}

test('off by default: none of its code is loaded', async () => {
  expect(await serveOnce([])).toMatchObject({ code: 0, numLoaded: 0 });
});

test('on: the last traces are sent before the end, those of requests cut off, too', async () => {
  const collector = await Collector.start();
  const args = ['--tracing-otlp-endpoint', collector.url, '--shutdown-timeout-ms', '100'];
  const { code, numLoaded } = await serveOnce(args, true);
  expect(code).toBe(0);
  expect(numLoaded).toBeGreaterThan(0);
  const { root } = await collector.trace('the-request');
  expect(root.attributes).toMatchObject({ 'gen_ai.request.max_tokens': 8000 });
  expect(root.attributes).not.toHaveProperty(['gen_ai.usage.output_tokens']);
  await collector.close();
});

test('a collector that is gone changes nothing else', async () => {
  const collector = await Collector.start();
  await collector.close();
  const { code, stdout } = await serveOnce(['--tracing-otlp-endpoint', collector.url]);
  expect(code).toBe(0);
  expect(stdout).toContain('"requestId":"the-request"');
});
