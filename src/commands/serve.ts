/** `coppice serve`: listens at once, takes work when the model is loaded, ends running work before it exits. */
import type { Command } from 'commander';
import { printableConfig } from '../config.ts';
import { createLogger } from '../log.ts';
import { packageInfo } from '../package-info.ts';
import type { Logger } from '../log.ts';
import { listen } from '../server/listen.ts';
import type { Listener } from '../server/listen.ts';
import { ModelPool } from '../server/model-pool.ts';
import { isLoopback } from '../server/origins.ts';
import { readPresets } from '../server/presets.ts';
import { ServedModel } from '../server/served-model.ts';
import { createTracing } from '../server/tracing.ts';
import { withinMs } from '../server/within-ms.ts';
import { modelSources } from './load.ts';
import { addConfigOptions, readConfig } from './options.ts';

/** How long the engine may take to come to the end of its turn when the process has to go. */
const LAST_TURN_MS = 5000;
/** How long the last traces may take to be sent. */
const LAST_TRACES_MS = 2000;

export function addServeCommand(program: Command): void {
  const command = program.command('serve').description('serve a model over HTTP with the OpenAI API');
  addConfigOptions(command).action(() => serve(command));
}

async function serve(command: Command): Promise<void> {
  const config = readConfig(command);
  const presets = readPresets(config.pruning);
  // Whoever read the log is gone: the server is not.
  process.stdout.on('error', () => undefined);
  const logger = createLogger({ level: config.log.level });
  const { sources, defaultId } = await modelSources(config, {
    onCrash: (error) => {
      logger.error({ err: error }, 'the engine died and is restarted');
    },
  });
  const models = new ModelPool(
    sources.map((source) => new ServedModel(source)),
    defaultId,
  );
  const tracing = await createTracing(config.tracing.otlp_endpoint, {
    logger,
    version: packageInfo().version,
  });
  const started: { listener?: Listener } = {};
  const timeoutMs = config.shutdown.timeout_ms;
  onSignals(logger, {
    drain: async () => {
      await started.listener?.drain(timeoutMs);
      const hasEnded = await settlesWithin(models.close(), Math.max(timeoutMs, LAST_TURN_MS));
      // What was cut off has ended by now, and is traced, too.
      await tracing?.close(LAST_TRACES_MS);
      return hasEnded;
    },
    hurry: () => settlesWithin(models.close(), LAST_TURN_MS),
  });
  started.listener = await listen({ config, logger, models, presets, tracing });
  const { url } = started.listener;
  logger.info({ config: printableConfig(config), url }, 'listening');
  if (config.api_keys.length === 0 && config.api_keys_file === null && !isLoopback(config.host))
    logger.warn(
      { host: config.host },
      'no API keys are configured: whoever reaches this address may use the server',
    );
  await models.load();
  process.stdout.write(`coppice is ready at ${url}\n`);
}

interface Shutdown {
  /** Both tell whether the engine's thread has ended. */
  drain(): Promise<boolean>;
  hurry(): Promise<boolean>;
}

/** What shells report for a process that a signal ended: 128 and the signal's number. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

/** The first signal ends the process when running work is done, the second as soon as the engine's turn is. */
function onSignals(logger: Logger, shutdown: Shutdown): void {
  let numSignals = 0;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      numSignals++;
      if (numSignals === 1) {
        logger.info({ signal }, 'draining');
        void shutdown.drain().then((hasEnded) => {
          // A second signal ends what this one waits for, and then decides the exit code.
          if (numSignals === 1) exit(0, hasEnded);
        });
      } else if (numSignals === 2) {
        void shutdown.hurry().then((hasEnded) => {
          exit(EXIT_CODES[signal], hasEnded);
        });
      } else exit(EXIT_CODES[signal], false);
    });
  }
}

/** An orderly exit aborts with a core dump while a thread is inside the inference library: then go without order. */
function exit(code: number, hasEngineEnded: boolean): never {
  if (!hasEngineEnded) process.kill(process.pid, 'SIGKILL');
  return process.exit(code);
}

/** Whether the promise settles in time, well or not. */
async function settlesWithin(promise: Promise<void>, ms: number): Promise<boolean> {
  const settled = promise.then(
    () => true,
    () => true,
  );
  return (await withinMs(settled, ms)) ?? false;
}
