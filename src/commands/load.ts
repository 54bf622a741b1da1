/** From configuration to a running model, for the commands that need one. */
import type { Config } from '../config.ts';
import { resolveModel } from '../hub/index.ts';
import { startEngine } from '../runtime/engine-client.ts';
import { modelId, readModel } from '../server/model.ts';
import type { LoadedModel } from '../server/model.ts';
import { pruningSettings, readPresets } from '../server/presets.ts';
import { DEMO_MODEL, cacheFolder } from './options.ts';
import { showProgress } from './progress.ts';

/** Finds the model's folder. Asks no network. @throws AppError `startup` */
export function findModel(config: Config): Promise<string> {
  return resolveModel(config.model ?? DEMO_MODEL, { cacheDir: cacheFolder(config) });
}

/** @throws AppError `startup` naming the file or the configuration key that cannot be used */
export async function loadModel(
  config: Config,
  modelDir: string,
  listeners: { onCrash?: (error: Error) => void } = {},
): Promise<LoadedModel> {
  const model = readModel(modelDir, modelId(config.model ?? DEMO_MODEL, modelDir));
  const byDefault = config.models[model.id]?.pruning?.default ?? config.pruning.default;
  const pruning = { ...config.pruning, default: byDefault };
  const presets = readPresets(pruning);
  const engine = await startEngine({
    modelDir,
    precision: config.precision,
    threads: config.threads,
    cacheDir: cacheFolder(config),
    kvMaxBytes: config.kv.max_bytes,
    prefixCacheMaxBytes: config.prefix_cache.max_bytes,
    maxRunning: config.queue.max_running,
    headPattern: config.policies.duo_attention.pattern,
    onProgress: showProgress,
    ...listeners,
  });
  try {
    return { ...model, engine, pruning: pruningSettings(presets, pruning, engine.model.shape) };
  } catch (error) {
    await engine.close();
    throw error;
  }
}
