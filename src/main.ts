#!/usr/bin/env node
/** The command line: serve, generate, pull, heads, layers. */
import { Command } from 'commander';
import { addGenerateCommand } from './commands/generate.ts';
import { addHeadsCommand } from './commands/heads.ts';
import { addLayersCommand } from './commands/layers.ts';
import { addPullCommand } from './commands/pull.ts';
import { addServeCommand } from './commands/serve.ts';
import { AppError, errorMessage } from './errors.ts';
import { packageInfo } from './package-info.ts';

/** One line, whatever was thrown. */
function fail(message: string): void {
  process.stderr.write(`coppice: ${message.trim().replace(/\s*\n\s*/g, ' ')}\n`);
}

const program = new Command('coppice')
  .description('OpenAI-compatible generation server')
  .version(packageInfo().version)
  .configureOutput({
    outputError: (text) => {
      fail(text.replace(/^error: /, ''));
    },
  });
addServeCommand(program);
addGenerateCommand(program);
addPullCommand(program);
addHeadsCommand(program);
addLayersCommand(program);

try {
  await program.parseAsync();
} catch (error) {
  fail(error instanceof AppError ? error.message : `internal error: ${errorMessage(error)}`);
  process.exit(1);
}
