/** An app around an engine, called without a socket. */
import { PassThrough } from 'node:stream';
import { join } from 'node:path';
import type { Hono } from 'hono';
import { loadConfig } from '../../../src/config.ts';
import type { Config } from '../../../src/config.ts';
import { createLogger } from '../../../src/log.ts';
import type { Engine } from '../../../src/runtime/protocol.ts';
import { createApp } from '../../../src/server/app.ts';
import { createServerContext } from '../../../src/server/context.ts';
import type { AppEnv, ServerOptions } from '../../../src/server/context.ts';
import { describeModel } from '../../../src/runtime/model-info.ts';
import { readModel } from '../../../src/server/model.ts';
import type { LoadedModel } from '../../../src/server/model.ts';
import { ModelPool } from '../../../src/server/model-pool.ts';
import { pruningSettings, readPresets } from '../../../src/server/presets.ts';
import { ServedModel } from '../../../src/server/served-model.ts';

export const DEMO_MODEL = join(import.meta.dirname, '../../../models/coppice-recall');

export interface TestServer {
  readonly context: ServerOptions;
  readonly app: Hono<AppEnv>;
  /** Lines written so far. */
  log(): Record<string, unknown>[];
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
}

function loadedDemo(engine: Engine, config: Config, id: string): LoadedModel {
  const pruning = pruningSettings(readPresets(config.pruning), config.pruning, engine.model.shape);
  return { ...readModel(DEMO_MODEL, id), engine, pruning };
}

/** Without an engine the model is loading for ever. */
export function createContext(
  engine: Engine | null,
  flags: Record<string, string> = {},
  id = 'coppice-recall',
  changes: Partial<LoadedModel> = {},
) {
  const stream = new PassThrough();
  const config = loadConfig({ flags });
  const source = {
    id,
    loadsAtStart: true,
    unloadAfterMs: null,
    describe: () => describeModel({ modelDir: DEMO_MODEL }),
    load: () => new Promise<never>(() => undefined),
  };
  const models = new ModelPool([
    new ServedModel(source, engine && { ...loadedDemo(engine, config, id), ...changes }),
  ]);
  const presets = readPresets(config.pruning);
  const context = { config, models, presets, logger: createLogger({ level: config.log.level, stream }) };
  let text = '';
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const log = () =>
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { context, log };
}

/** @param changes to the demo model, such as another chat template */
export function createTestServer(
  engine: Engine | null,
  flags: Record<string, string> = {},
  changes: Partial<LoadedModel> = {},
): TestServer {
  const { context, log } = createContext(engine, flags, undefined, changes);
  const app = createApp(createServerContext(context));
  return {
    context,
    app,
    log,
    post: async (path, body, headers = {}) =>
      app.request(path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
  };
}

/** The pieces of a server-sent reply: data as text, comments with their colon. */
export async function readEvents(response: Response): Promise<string[]> {
  const text = await response.text();
  return text
    .split('\n\n')
    .filter((piece) => piece !== '')
    .map((piece) => piece.replace(/^data: /, ''));
}

export function parseEvents<T>(pieces: readonly string[]): T[] {
  return pieces.filter((piece) => piece.startsWith('{')).map((piece) => JSON.parse(piece) as T);
}
