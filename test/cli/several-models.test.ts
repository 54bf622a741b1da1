/** Several models in one process, by configuration: each with its own block, loaded when it says. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const MAIN = join(import.meta.dirname, '../../dist/main.js');
const MODELS = join(import.meta.dirname, '../fixtures/models');

let folder: string;
const running = new Set<ChildProcess>();
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'coppice-models-'));
});
afterAll(() => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function start(config: object) {
  const file = join(folder, 'config.json');
  writeFileSync(file, JSON.stringify({ cache_dir: join(folder, 'cache'), ...config }));
  const child = spawn(process.execPath, [MAIN, 'serve', '--port', '0', '--config', file], { cwd: folder });
  running.add(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  const exit = once(child, 'close').then(([code]) => {
    running.delete(child);
    return code as number | null;
  });
  return { child, output, exit };
}

async function serve(config: object) {
  const started = start(config);
  const ready = /coppice is ready at (http:\S+)\n/;
  await expect.poll(() => started.output.stdout, { timeout: 30_000 }).toMatch(ready);
  return { ...started, url: ready.exec(started.output.stdout)?.[1] ?? '' };
}

interface Completion {
  readonly model: string;
  readonly error?: { readonly param: string; readonly code: string; readonly message: string };
}

async function complete(url: string, body: object): Promise<Completion> {
  const reply = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'Once upon a time', max_tokens: 3, ...body }),
  });
  return (await reply.json()) as Completion;
}

const get = async (url: string) => (await (await fetch(url)).json()) as { data: { id: string }[] };

/** Of a gauge or counter, by model. */
async function metric(url: string, name: string): Promise<Record<string, number>> {
  const page = await (await fetch(`${url}/metrics`)).text();
  const lines = page.matchAll(new RegExp(`^coppice_${name}\\{model_name="([^"]+)"\\} (.+)$`, 'gm'));
  return Object.fromEntries([...lines].map(([, model = '', value]) => [model, Number(value)]));
}

describe('two models', () => {
  const models = {
    stories: { model: join(MODELS, 'stories260K'), load: 'first_use', unload_after_ms: 300 },
    spell: { model: join(MODELS, 'pyspell'), precision: 'fp32', kv: { max_bytes: '64MiB' } },
  };

  test('are listed, answer under their names, and count apart', async () => {
    const { url, child, exit } = await serve({ models });
    expect((await get(`${url}/v1/models`)).data.map(({ id }) => id)).toEqual(['stories', 'spell']);
    expect(await metric(url, 'kv_bytes_limit')).toEqual({ stories: 0, spell: 64 * 2 ** 20 });
    expect(await complete(url, {})).toMatchObject({
      error: { param: 'model', message: 'model: expected one of "stories", "spell", got nothing' },
    });
    expect(await complete(url, { model: 'other' })).toMatchObject({ error: { code: 'model_not_found' } });
    for (const model of ['spell', 'stories']) expect(await complete(url, { model })).toMatchObject({ model });
    expect(await metric(url, 'generation_tokens_total')).toEqual({ stories: 3, spell: 3 });
    expect((await metric(url, 'kv_bytes_limit'))['stories']).toBeGreaterThan(0);
    const everything = Array.from({ length: 512 }, (_, id) => id);
    expect(
      await complete(url, { model: 'stories', stop_token_ids: everything, min_tokens: 1 }),
    ).toMatchObject({ error: { param: 'stop_token_ids' } });
    expect((await fetch(`${url}/v1/policies?model=spell`)).status).toBe(200);
    expect((await fetch(`${url}/v1/policies?model=other`)).status).toBe(404);
    // Nobody uses the first one any more: its memory goes, what it counted stays.
    const limits = async () => (await metric(url, 'prefix_cache_bytes'))['stories'];
    await expect.poll(limits, { timeout: 20_000 }).toBe(0);
    expect(await complete(url, { model: 'stories' })).toMatchObject({ model: 'stories' });
    expect(await metric(url, 'generation_tokens_total')).toEqual({ stories: 6, spell: 3 });
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
  });

  test('beside the one at the top, which is meant when none is named', async () => {
    const { url, child, exit } = await serve({
      model: join(MODELS, 'llama2xs'),
      models: { stories: models.stories, llama2xs: { pruning: { default: { kv: 'streaming-llm' } } } },
    });
    expect(await complete(url, {})).toMatchObject({
      model: 'llama2xs',
      pruning: { kv: { policy: 'streaming-llm' } },
    });
    const other = await complete(url, { model: 'stories' });
    expect(other).toMatchObject({ model: 'stories' });
    expect(other).not.toHaveProperty('pruning');
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
  });
});

describe('a block that cannot be meant', () => {
  test.each([
    [{ models: { typo: { precision: 'fp32' } } }, /models\.typo: expected "model".*"coppice-recall"/],
    [{ models: { a: { model: '/no/such' } } }, /\/no\/such not found/],
    [{ models: { a: { model: 'x', treads: 2 } } }, /models\.a\.treads: expected no key/],
    [{ models: { a: { model: join(MODELS, 'stories260K'), load: 'never' } } }, /models\.a\.load/],
  ])('%j', async (config, pattern) => {
    const { output, exit } = start(config);
    expect(await exit).toBe(1);
    expect(output.stderr).toMatch(/^coppice: [^\n]+\n$/);
    expect(output.stderr).toMatch(pattern);
  });
});
