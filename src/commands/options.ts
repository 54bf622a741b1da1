/** Flags that mirror configuration keys, and where the package and its cache lie. */
import { join } from 'node:path';
import type { Command } from 'commander';
import envPaths from 'env-paths';
import { configKeys, loadConfig } from '../config.ts';
import type { Config } from '../config.ts';
import { PACKAGE_ROOT } from '../package-info.ts';

/** The demo model that is used when none is named. */
export const DEMO_MODEL = join(PACKAGE_ROOT, 'models', 'coppice-recall');

/** Adds `--config` and one flag a configuration key; `paths` limits which. */
export function addConfigOptions(command: Command, paths?: readonly string[]): Command {
  command.option('--config <file>', 'JSON file with configuration keys');
  for (const { path, flag, description, kind } of configKeys) {
    if (paths !== undefined && !paths.includes(path)) continue;
    command.option(kind === 'boolean' ? `--${flag} [true|false]` : `--${flag} <value>`, description);
  }
  return command;
}

/** @throws AppError `startup` */
export function readConfig(command: Command): Config {
  const options: Record<string, string | boolean | undefined> = command.opts();
  const flags = Object.fromEntries(configKeys.map(({ path, flag }) => [path, options[toCamelCase(flag)]]));
  return loadConfig({ file: (options.config as string | undefined) ?? null, env: process.env, flags });
}

/** As commander names the values of its options. */
function toCamelCase(flag: string): string {
  return flag.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

export function cacheFolder(config: Config): string {
  return config.cache_dir ?? envPaths('coppice', { suffix: '' }).cache;
}
