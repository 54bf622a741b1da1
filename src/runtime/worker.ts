/** The engine's thread: loads the model, then turns the engine as long as there is work. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { AppError, invariant } from '../errors.ts';
import { InferenceEngine } from './engine.ts';
import type { FromWorker, ToWorker, WorkerOptions } from './messages.ts';
import { Model } from './model.ts';
import type { EngineEvent } from './protocol.ts';

invariant(parentPort !== null, 'this file runs in a worker thread');
const port = parentPort;
const send = (message: FromWorker): void => {
  port.postMessage(message);
};

/**
 * Every 64 MiB of results that a run hands out start a marking of the whole heap, which is small. At once that takes a
 * quarter of what it takes in steps, 3 to 4 % of a prompt's time. The flag is the whole process's, and read at each cycle.
 */
setFlagsFromString('--no-incremental-marking');

/** Resolves when there may be work again. */
let wake: () => void = () => undefined;
let closing = false;
const events: [string, EngineEvent][] = [];

function handle(engine: InferenceEngine, message: ToWorker): void {
  switch (message.type) {
    case 'submit': {
      const { request } = message;
      engine.submit(request, (event) => events.push([request.id, event]));
      break;
    }
    case 'vocabulary':
      engine.setVocabulary(message.vocabulary);
      break;
    case 'cancel':
      engine.cancel(message.id);
      break;
    case 'pause':
      engine.pause(message.id);
      break;
    case 'resume':
      engine.resume(message.id);
      break;
    case 'stopChoice':
      engine.stopChoice(message.id, message.choice);
      break;
    case 'stats':
      send({ type: 'stats', query: message.query, stats: engine.stats() });
      break;
    case 'close':
      closing = true;
      break;
  }
  wake();
}

/** Whoever scrapes must not wait for a turn to end, so the state is told unasked: this often, and before idling. */
const STATS_PERIOD_MS = 20;
let toldMs = 0;

function tellStats(engine: InferenceEngine): void {
  const nowMs = performance.now();
  if (engine.hasWork && nowMs - toldMs < STATS_PERIOD_MS) return;
  toldMs = nowMs;
  send({ type: 'stats', query: null, stats: engine.stats() });
}

async function run(engine: InferenceEngine): Promise<void> {
  while (!closing) {
    if (!engine.hasWork) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      continue;
    }
    await engine.turn();
    tellStats(engine);
    if (events.length > 0) send({ type: 'events', events: events.splice(0) });
    await nextTurn();
  }
  await engine.close();
  send({ type: 'closed' });
  port.close();
}

async function start(): Promise<void> {
  const options = workerData as WorkerOptions;
  let model: Model;
  try {
    model = await Model.load({
      ...options,
      onProgress: (message) => {
        send({ type: 'progress', message });
      },
    });
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    send({ type: 'failed', message: error.message });
    port.close();
    return;
  }
  const engine = new InferenceEngine(model, options);
  port.on('message', (message: ToWorker) => {
    handle(engine, message);
  });
  tellStats(engine);
  send({ type: 'ready', model: model.info });
  await run(engine);
}

await start();
