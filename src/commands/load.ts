/** From configuration to models that run, for the commands that need them. */
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { resolveModel } from '../hub/index.ts';
import { startEngine } from '../runtime/engine-client.ts';
import { describeModel } from '../runtime/model-info.ts';
import { modelId, modelVocabulary, readModel } from '../server/model.ts';
import type { LoadedModel } from '../server/model.ts';
import { pruningSettings, readPresets } from '../server/presets.ts';
import type { ModelSource } from '../server/served-model.ts';
import { DEMO_MODEL, cacheFolder } from './options.ts';
import { showProgress } from './progress.ts';

type ModelBlock = Config['models'][string];

/** One model of the configuration. */
interface ModelPlan {
  readonly id: string;
  readonly modelDir: string;
  readonly block: ModelBlock;
}

export interface LoadListeners {
  readonly onCrash?: (error: Error) => void;
}

/** Finds the folder of the model at the top of the configuration. Asks no network. @throws AppError `startup` */
export function findModel(config: Config): Promise<string> {
  return resolveModel(config.model ?? DEMO_MODEL, { cacheDir: cacheFolder(config) });
}

/** That model alone. @throws AppError `startup` naming the file or the configuration key that cannot be used */
export async function loadModel(config: Config, modelDir: string): Promise<LoadedModel> {
  return load(config, mainPlan(config, modelDir));
}

export interface ModelSources {
  readonly sources: readonly ModelSource[];
  /** Name of the model for requests that name none; null = they must, if there are several. */
  readonly defaultId: string | null;
}

/**
 * Every model that the configuration asks to serve; the demo model if it names none.
 * @throws AppError `startup`
 */
export async function modelSources(config: Config, listeners: LoadListeners): Promise<ModelSources> {
  const further = Object.entries(config.models).filter(([, { model }]) => model !== undefined);
  const main = config.model === null && further.length > 0 ? null : mainPlan(config, await findModel(config));
  const plans = main === null ? [] : [main];
  for (const [id, block] of Object.entries(config.models)) {
    if (block.model !== undefined) plans.push(await furtherPlan(config, id, block));
    else if (id !== main?.id) throw unusedBlock(id, main);
  }
  const twice = plans.find(({ id }, i) => plans.findIndex((other) => other.id === id) < i);
  if (twice !== undefined)
    throw new AppError(
      'startup',
      `configuration key models.${twice.id}: expected another name than that of "model"`,
    );
  return {
    sources: plans.map((plan) => ({
      id: plan.id,
      loadsAtStart: plan.block.load !== 'first_use',
      unloadAfterMs: plan.block.unload_after_ms ?? null,
      describe: () =>
        describeModel({ modelDir: plan.modelDir, headPattern: headPattern(config, plan.block) }),
      load: () => load(config, plan, listeners),
    })),
    defaultId: main?.id ?? null,
  };
}

function mainPlan(config: Config, modelDir: string): ModelPlan {
  const id = modelId(config.model ?? DEMO_MODEL, modelDir);
  return { id, modelDir, block: config.models[id] ?? {} };
}

async function furtherPlan(config: Config, id: string, block: ModelBlock): Promise<ModelPlan> {
  return { id, block, modelDir: await resolveModel(block.model ?? id, { cacheDir: cacheFolder(config) }) };
}

/** A block for nothing is most likely a name with a typo. */
function unusedBlock(id: string, main: ModelPlan | null): AppError {
  const served = main === null ? '' : `, or the name ${JSON.stringify(main.id)} of the model served`;
  return new AppError(
    'startup',
    `configuration key models.${id}: expected "model", a folder or hub id${served}, got neither`,
    { param: `models.${id}` },
  );
}

function headPattern(config: Config, block: ModelBlock): string | null {
  return block.policies?.duo_attention?.pattern ?? config.policies.duo_attention.pattern;
}

async function load(
  config: Config,
  { id, modelDir, block }: ModelPlan,
  listeners: LoadListeners = {},
): Promise<LoadedModel> {
  const model = readModel(modelDir, id);
  const pruning = { ...config.pruning, default: block.pruning?.default ?? config.pruning.default };
  const presets = readPresets(pruning);
  const engine = await startEngine({
    modelDir,
    precision: block.precision ?? config.precision,
    threads: block.threads ?? config.threads,
    cacheDir: cacheFolder(config),
    kvMaxBytes: block.kv?.max_bytes ?? config.kv.max_bytes,
    prefixCacheMaxBytes: block.prefix_cache?.max_bytes ?? config.prefix_cache.max_bytes,
    maxRunning: block.queue?.max_running ?? config.queue.max_running,
    headPattern: headPattern(config, block),
    vocabulary: () => modelVocabulary(model),
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
