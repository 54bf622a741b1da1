/** `npm run eval`: quality against cost of pruning settings, as tables and as JSON; see README.md. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { basename, dirname } from 'node:path';
import envPaths from 'env-paths';
import { AppError } from '../src/errors.ts';
import { Model } from '../src/runtime/model.ts';
import { readPresets } from '../src/server/presets.ts';
import { evaluate } from './evaluate.ts';
import { readTextLayer } from './items.ts';
import { readOptions } from './options.ts';
import { defaultSettings, readSettings } from './settings.ts';
import { resultTables } from './table.ts';

function log(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function main(): Promise<void> {
  const options = readOptions(process.argv.slice(2));
  const { model: modelDir, precision, threads } = options;
  const text = readTextLayer(modelDir);
  const cacheDir = envPaths('coppice', { suffix: '' }).cache;
  const model = await Model.load({ modelDir, precision, threads, cacheDir });
  const { shape } = model.info;
  const presets = readPresets({ presets: {}, default: 'none' });
  const isListed = options.pruning.length > 0 || options.settingsFile !== null;
  const settings = isListed
    ? readSettings({ values: options.pruning, file: options.settingsFile }, presets, shape)
    : defaultSettings(presets, shape, log);
  const results = await evaluate(model, text, settings, options, log);
  await model.close();
  const run = {
    machine: `${cpus().length} x ${cpus()[0]?.model ?? 'unknown processor'}, node ${process.version}`,
    date: new Date().toISOString().slice(0, 10),
    model: basename(modelDir),
    precision,
    threads,
    sets: options.sets,
    limit: Number.isFinite(options.limit) ? options.limit : null,
    cost_items: options.costItems,
    settings: results,
  };
  mkdirSync(dirname(options.out), { recursive: true });
  writeFileSync(options.out, `${JSON.stringify(run, null, 1)}\n`);
  process.stdout.write(
    `${run.machine}; ${run.model} ${precision}; ${run.date}\n\n${resultTables(results)}\n`,
  );
  if (results.some(({ failure }) => failure !== null)) process.exitCode = 1;
}

try {
  await main();
} catch (error) {
  if (!(error instanceof AppError)) throw error;
  process.stderr.write(`eval: ${error.message}\n`);
  process.exitCode = 1;
}
