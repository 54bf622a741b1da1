/** Models for one test file, compiled into a cache folder that is removed with them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { Precision } from '../../src/graph/linear.ts';
import type { Model } from '../../src/runtime/model.ts';
import { load } from './drive.ts';

/** A loader for the running test file: every model is loaded once. */
export function modelLoader(): (modelDir: string, precision?: Precision, threads?: number) => Promise<Model> {
  const cacheDir = mkdtempSync(join(tmpdir(), 'coppice-model-'));
  const models = new Map<string, Promise<Model>>();
  afterAll(async () => {
    for (const model of models.values()) await (await model).close();
    rmSync(cacheDir, { recursive: true, force: true });
  });
  return (modelDir, precision = 'fp32', threads = 1) => {
    const key = [modelDir, precision, threads].join();
    const model = models.get(key) ?? load(modelDir, precision, cacheDir, threads);
    models.set(key, model);
    return model;
  };
}
