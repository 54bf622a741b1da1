/** The cache of compiled models: made once for a content, mended when damaged, never left half-made. */
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compileModel } from '../../src/graph/compile.ts';
import type { CompiledModel } from '../../src/graph/compile.ts';
import type { Precision } from '../../src/graph/linear.ts';
import {
  filled,
  safetensors,
  startupMessageOf,
  tempDir,
  tensor,
  tinyModel,
  tinyShapes,
  TINY,
} from './checkpoint-files.ts';

interface Outcome extends CompiledModel {
  /** Whether the checkpoint was converted for it. */
  readonly converted: boolean;
}

async function compile(modelDir: string, cacheDir: string, precision: Precision = 'int8'): Promise<Outcome> {
  const progress: string[] = [];
  const model = await compileModel(modelDir, {
    precision,
    cacheDir,
    onProgress: (line) => progress.push(line),
  });
  if (progress.length > 0) expect(progress.at(-1)).toBe(`converting to ${precision}: 100 %`);
  return { ...model, converted: progress.length > 0 };
}

async function failure(modelDir: string, cacheDir: string, precision: Precision = 'int8'): Promise<string> {
  const error: unknown = await compile(modelDir, cacheDir, precision).then(
    () => null,
    (reason: unknown) => reason,
  );
  return startupMessageOf(error);
}

const entries = (cacheDir: string): string[] => readdirSync(join(cacheDir, 'graphs')).sort();
const weightsOf = (modelDir: string): string => join(modelDir, 'model.safetensors');

/** Bytes of every file of an entry. */
function contents(dir: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(dir).map((name) => [name, readFileSync(join(dir, name)).toString('base64')]),
  );
}

describe('the key', () => {
  it('is the content: a second start, a copy elsewhere and new time stamps convert nothing', async () => {
    const [modelDir, copyDir, cacheDir] = [tinyModel(), tempDir(), tempDir()];
    const first = await compile(modelDir, cacheDir);
    expect(first.converted).toBe(true);
    expect(await compile(modelDir, cacheDir)).toMatchObject({ dir: first.dir, converted: false });
    for (const name of readdirSync(modelDir)) copyFileSync(join(modelDir, name), join(copyDir, name));
    expect(await compile(copyDir, cacheDir)).toMatchObject({ dir: first.dir, converted: false });
    utimesSync(weightsOf(modelDir), 1, 1);
    expect(await compile(modelDir, cacheDir)).toMatchObject({ dir: first.dir, converted: false });
  });

  it('does not depend on files that say nothing about the graph', async () => {
    const [modelDir, cacheDir] = [tinyModel(), tempDir()];
    const { dir } = await compile(modelDir, cacheDir);
    writeFileSync(join(modelDir, 'tokenizer.json'), '{}');
    expect(await compile(modelDir, cacheDir)).toMatchObject({ dir, converted: false });
  });

  it('changes with the precision, the config and the weights, though their size stays', async () => {
    const [modelDir, cacheDir] = [tinyModel(), tempDir()];
    const dirs = [await compile(modelDir, cacheDir), await compile(modelDir, cacheDir, 'fp32')];
    const { size } = statSync(weightsOf(modelDir));
    writeFileSync(weightsOf(modelDir), safetensors(filled(tinyShapes(), 2)));
    expect(statSync(weightsOf(modelDir)).size).toBe(size);
    dirs.push(await compile(modelDir, cacheDir));
    writeFileSync(join(modelDir, 'config.json'), JSON.stringify({ ...TINY, rms_norm_eps: 1e-4 }));
    dirs.push(await compile(modelDir, cacheDir));
    expect(dirs.every((model) => model.converted)).toBe(true);
    expect(new Set(dirs.map((model) => model.dir)).size).toBe(4);
    expect(entries(cacheDir)).toEqual(dirs.map((model) => basename(model.dir)).sort());
  });

  it('sees a rewritten file although size and modification time were put back', async () => {
    const [modelDir, cacheDir] = [tinyModel(), tempDir()];
    const file = weightsOf(modelDir);
    const { dir } = await compile(modelDir, cacheDir);
    const { atime, mtime } = statSync(file);
    writeFileSync(file, safetensors(filled(tinyShapes(), 2)));
    utimesSync(file, atime, mtime);
    const second = await compile(modelDir, cacheDir);
    expect(second.converted).toBe(true);
    expect(second.dir).not.toBe(dir);
  });

  it('is computed again when the remembered digest is damaged', async () => {
    const [modelDir, cacheDir] = [tinyModel(), tempDir()];
    const { dir } = await compile(modelDir, cacheDir);
    const digests = join(cacheDir, 'digests');
    const [memo = '', ...rest] = readdirSync(digests);
    expect(rest).toEqual([]);
    const digest = readFileSync(join(digests, memo), 'utf8');
    truncateSync(join(digests, memo), 0);
    expect(await compile(modelDir, cacheDir)).toMatchObject({ dir, converted: false });
    expect(readFileSync(join(digests, memo), 'utf8')).toBe(digest);
  });
});

describe('an entry', () => {
  it.each(['weights.bin', 'model.onnx', 'manifest.json', 'embedding.bin', 'embedding-scales.bin'])(
    'is made anew, the same, when %s was cut or is gone',
    async (name) => {
      const [modelDir, cacheDir] = [tinyModel(), tempDir()];
      const { dir } = await compile(modelDir, cacheDir);
      const before = contents(dir);
      truncateSync(join(dir, name), statSync(join(dir, name)).size - 1);
      expect(await compile(modelDir, cacheDir)).toMatchObject({ dir, converted: true });
      expect(contents(dir)).toEqual(before);
      expect(entries(cacheDir)).toEqual([basename(dir)]);
      writeFileSync(join(dir, 'manifest.json'), '{"files":{"gone":1}}');
      expect(await compile(modelDir, cacheDir)).toMatchObject({ converted: true });
      expect(contents(dir)).toEqual(before);
    },
  );

  it('is made beside what crashed processes left: fresh leftovers stay, old ones go', async () => {
    const [modelDir, cacheDir] = [tinyModel(), tempDir()];
    const graphs = join(cacheDir, 'graphs');
    const { dir } = await compile(modelDir, tempDir());
    const fresh = `${basename(dir)}.tmp-1-2`;
    const old = `${basename(dir)}.tmp-3-4`;
    for (const name of [fresh, old]) {
      mkdirSync(join(graphs, name), { recursive: true });
      writeFileSync(join(graphs, name, 'weights.bin'), 'half');
    }
    utimesSync(join(graphs, old), 1, 1);
    expect(await compile(modelDir, cacheDir)).toMatchObject({ converted: true });
    expect(entries(cacheDir)).toEqual([basename(dir), fresh]);
  });

  it('is converted once for promises that ask together', async () => {
    const [modelDir, cacheDir] = [tinyModel(), tempDir()];
    const models = await Promise.all(Array.from({ length: 4 }, () => compile(modelDir, cacheDir)));
    expect(models.filter((model) => model.converted)).toHaveLength(1);
    expect(entries(cacheDir)).toEqual([basename(models[0]!.dir)]);
    expect(readdirSync(join(cacheDir, 'digests'))).toHaveLength(1);
  });

  it('is whole when two processes make it at once, and nothing else is left', async () => {
    const [modelDir, cacheDir, alone] = [tinyModel(), tempDir(), tempDir()];
    const go = join(cacheDir, 'go');
    const script = `
      import { existsSync } from 'node:fs';
      const { compileModel } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/graph/compile.ts'))});
      console.log('ready');
      while (!existsSync(${JSON.stringify(go)}));
      await compileModel(${JSON.stringify(modelDir)}, { precision: 'int8', cacheDir: ${JSON.stringify(cacheDir)} });`;
    const processes = [0, 1].map(() => {
      const args = ['--import', 'tsx', '--input-type=module', '--eval', script];
      const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
      return {
        ready: new Promise((resolve) => child.stdout.once('data', resolve)),
        code: new Promise((resolve) => child.once('exit', resolve)),
      };
    });
    await Promise.all(processes.map(({ ready, code }) => Promise.race([ready, code])));
    writeFileSync(go, '');
    expect(await Promise.all(processes.map(({ code }) => code))).toEqual([0, 0]);
    const { dir } = await compile(modelDir, alone);
    expect(entries(cacheDir)).toEqual([basename(dir)]);
    expect(contents(join(cacheDir, 'graphs', basename(dir)))).toEqual(contents(dir));
    expect(await compile(modelDir, cacheDir)).toMatchObject({ converted: false });
  }, 20_000);
});

describe('errors', () => {
  it('name a cache folder that cannot be made or written', async () => {
    const modelDir = tinyModel();
    const file = join(tempDir(), 'file');
    writeFileSync(file, '');
    expect(await failure(modelDir, file)).toContain(`cannot create the cache folder ${join(file, 'graphs')}`);
    if (process.platform === 'linux') {
      // A file system that takes no folders: a recursive mkdir would never return.
      expect(await failure(modelDir, '/proc/nope')).toContain(
        'cannot create the cache folder /proc/nope/graphs',
      );
    }
    const cacheDir = tempDir();
    writeFileSync(join(cacheDir, 'digests'), '');
    expect(await failure(modelDir, cacheDir)).toContain(`cannot write to the cache folder ${cacheDir}`);
  });

  it('name the target when the entry cannot be put in its place, and leave nothing behind', async () => {
    const [modelDir, cacheDir] = [tinyModel(), tempDir()];
    const { dir } = await compile(modelDir, tempDir());
    const graphs = join(cacheDir, 'graphs');
    mkdirSync(graphs);
    // A dangling link looks absent, yet nothing can be renamed onto it.
    symlinkSync(join(graphs, 'nowhere'), join(graphs, basename(dir)));
    expect(await failure(modelDir, cacheDir)).toContain(
      `cannot write the converted model to ${join(graphs, basename(dir))}`,
    );
    expect(entries(cacheDir)).toEqual([basename(dir)]);
  });

  it('of the checkpoint come before anything is written', async () => {
    const cacheDir = tempDir();
    expect(await failure(tinyModel({ head_dim: 7 }), cacheDir)).toContain('head_dim');
    expect(existsSync(join(cacheDir, 'graphs'))).toBe(false);
  });

  it.each(['model.layers.1.mlp.up_proj.weight', 'model.embed_tokens.weight'])(
    'name %s when it is not finite and must become int8',
    async (name) => {
      const tensors = filled(tinyShapes());
      const { shape, bytes } = tensors[name]!;
      const values = new Float32Array(bytes.slice().buffer);
      values[values.length - 3] = NaN;
      const modelDir = tinyModel();
      writeFileSync(weightsOf(modelDir), safetensors({ ...tensors, [name]: tensor('F32', shape, values) }));
      const cacheDir = tempDir();
      expect(await failure(modelDir, cacheDir)).toBe(
        `tensor ${name}: expected finite values, got infinity or NaN`,
      );
      expect(entries(cacheDir)).toEqual([]);
      expect(await compile(modelDir, cacheDir, 'fp32')).toMatchObject({ converted: true });
    },
  );
});
