/** Measures settings against the dense run: quality in batches, then cost one request at a time. */
import type { Model } from '../src/runtime/model.ts';
import { sampleCosts, type Listeners, type Log } from './cost.ts';
import { Driver, SettingError } from './driver.ts';
import {
  QUESTION_SETS,
  readPassages,
  readQuestions,
  type Question,
  type SetName,
  type TextLayer,
} from './items.ts';
import { countRequests, measureQuality, type EvalData, type Quality } from './quality.ts';
import { summarise, type SettingResult } from './results.ts';
import { DENSE, type Setting } from './settings.ts';

/** Bytes of K/V that requests of a batch may hold together. */
const KV_BYTES = 2 ** 31;
const BATCH_REQUESTS = 8;

export interface EvalOptions {
  readonly sets: readonly SetName[];
  /** Most questions of each length (of copy: of each task and kind of text), and most passages. */
  readonly limit: number;
  /** Timed requests of each length; 0 = measure no cost. */
  readonly costItems: number;
}

/** Results of `dense` and then of `settings`, in their order. */
export async function evaluate(
  model: Model,
  text: TextLayer,
  settings: readonly Setting[],
  options: EvalOptions,
  log: Log = () => undefined,
): Promise<SettingResult[]> {
  const driver = new Driver(model, { kvMaxBytes: KV_BYTES, maxRunning: BATCH_REQUESTS });
  const all = [DENSE, ...settings];
  const failures = new Map<string, string>();
  const onFailure = ({ name }: Setting, error: SettingError): void => {
    // Nothing can be compared without it.
    if (name === DENSE.name) throw error;
    failures.set(name, error.message);
    log(`${name}: given up: ${error.message}`);
  };
  const data = readData(model, text, options, log);
  const qualities = await measureQualities(driver, all, data, text, { onFailure, log });
  const left = all.filter(({ name }) => !failures.has(name));
  const timed = readTimed(model, text, options);
  const samples = await sampleCosts(driver, left, timed, { onFailure, log });
  return all.map((setting) => ({
    name: setting.name,
    pruning: setting.pruning,
    failure: failures.get(setting.name) ?? null,
    ...summarise(setting.name, { qualities, samples, timed }),
  }));
}

function readData(model: Model, text: TextLayer, { sets, limit }: EvalOptions, log: Log): EvalData {
  const { contextLength } = model.info;
  const questions = QUESTION_SETS.filter((set) => sets.includes(set)).flatMap((set) =>
    readQuestions(set, text, limit),
  );
  const fitting = questions.filter(
    ({ promptIds, maxTokens }) => promptIds.length + maxTokens <= contextLength,
  );
  const passages = sets.includes('books') ? readPassages(text, limit) : [];
  const short = passages.filter(({ ids }) => ids.length <= contextLength);
  const numLeftOut = questions.length - fitting.length + passages.length - short.length;
  if (numLeftOut > 0)
    log(`left out: ${numLeftOut} items longer than the model's context of ${contextLength} tokens`);
  return { questions: fitting, passages: short };
}

/** Questions of each length: those of `recall` and `long`, if they are asked for. */
function readTimed(model: Model, text: TextLayer, { sets, costItems }: EvalOptions): Question[] {
  if (costItems === 0) return [];
  const lengths = (['recall', 'long'] as const).filter((set) => sets.includes(set));
  // One decoded token is no rate.
  return lengths
    .flatMap((set) => readQuestions(set, text, costItems))
    .filter(({ promptIds }) => promptIds.length + 2 <= model.info.contextLength);
}

async function measureQualities(
  driver: Driver,
  settings: readonly Setting[],
  data: EvalData,
  text: TextLayer,
  { onFailure, log }: Listeners,
): Promise<Map<string, Quality>> {
  const qualities = new Map<string, Quality>();
  for (const setting of settings) {
    const total = countRequests(data, setting.choice, driver.model.info.shape);
    let numDone = 0;
    const start = performance.now();
    const onReply = (): void => {
      if (++numDone % 100 === 0) log(`${setting.name}: ${numDone} of ${total} requests`);
    };
    try {
      qualities.set(setting.name, await measureQuality(driver, setting, data, text, onReply));
      log(`${setting.name}: ${total} requests in ${Math.round((performance.now() - start) / 1000)} s`);
    } catch (error) {
      if (!(error instanceof SettingError)) throw error;
      onFailure(setting, error);
    }
  }
  return qualities;
}
