/** `coppice pull`: fetches a model from the hub into the cache. */
import type { Command } from 'commander';
import { progressBar, pullModel } from '../hub/index.ts';
import { addConfigOptions, cacheFolder, readConfig } from './options.ts';

export function addPullCommand(program: Command): void {
  const command = program
    .command('pull')
    .description('fetch a model from the hub, for `--model <id>`')
    .argument('<id>', 'hub id such as org/name or org/name@revision')
    .option('--revision <revision>', 'branch, tag or commit');
  addConfigOptions(command, ['cache_dir']).action((id: string) => pull(command, id));
}

async function pull(command: Command, id: string): Promise<void> {
  const config = readConfig(command);
  const { revision }: { revision?: string } = command.opts();
  const { onProgress, onNotice, stop } = progressBar(process.stderr);
  let folder: string;
  try {
    folder = await pullModel(id, {
      cacheDir: cacheFolder(config),
      ...(revision !== undefined && { revision }),
      onProgress,
      onNotice,
    });
  } finally {
    stop();
  }
  process.stdout.write(`${folder}\n`);
}
