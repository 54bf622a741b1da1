/** `coppice serve`: listens at once, takes work when the model is loaded, ends running work before it exits. */
import type { Command } from 'commander';
import { createLogger } from '../log.ts';
import type { Logger } from '../log.ts';
import { Lifecycle } from '../server/lifecycle.ts';
import { listen } from '../server/listen.ts';
import { findModel, loadModel } from './load.ts';
import { addConfigOptions, readConfig } from './options.ts';

export function addServeCommand(program: Command): void {
  const command = program.command('serve').description('serve a model over HTTP with the OpenAI API');
  addConfigOptions(command).action(() => serve(command));
}

async function serve(command: Command): Promise<void> {
  const config = readConfig(command);
  const modelDir = await findModel(config);
  const logger = createLogger({ level: config.log.level });
  const lifecycle = new Lifecycle();
  const listener = await listen({ config, logger, lifecycle });
  logger.info({ config, url: listener.url }, 'listening');
  onSignals(logger, async () => {
    await listener.drain(config.shutdown.timeout_ms);
    await lifecycle.close();
  });
  const model = await loadModel(config, modelDir, {
    onProgress: (progress) => {
      logger.info({ progress }, 'loading');
    },
    onCrash: (error) => {
      logger.error({ err: error }, 'the engine died and is restarted');
    },
  });
  lifecycle.setReady(model);
  process.stdout.write(`coppice is ready at ${listener.url}\n`);
}

/** The first signal ends the process when `drain` is done, the second at once. */
function onSignals(logger: Logger, drain: () => Promise<void>): void {
  let isDraining = false;
  const numbers = { SIGINT: 2, SIGTERM: 15 } as const;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      // What shells report for a process that a signal ended.
      if (isDraining) process.exit(128 + numbers[signal]);
      isDraining = true;
      logger.info({ signal }, 'draining');
      drain().then(
        () => process.exit(0),
        (error: unknown) => {
          logger.error({ err: error }, 'shutdown failed');
          process.exit(1);
        },
      );
    });
  }
}
