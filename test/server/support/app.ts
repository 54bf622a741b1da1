/** An app around an engine, called without a socket. */
import { PassThrough } from 'node:stream';
import { join } from 'node:path';
import type { Hono } from 'hono';
import { loadConfig } from '../../../src/config.ts';
import { createLogger } from '../../../src/log.ts';
import type { Engine } from '../../../src/runtime/protocol.ts';
import { createApp } from '../../../src/server/app.ts';
import type { AppEnv, AppOptions } from '../../../src/server/context.ts';
import { Lifecycle } from '../../../src/server/lifecycle.ts';
import { readModel } from '../../../src/server/model.ts';
import { pruningSettings, readPresets } from '../../../src/server/presets.ts';

export const DEMO_MODEL = join(import.meta.dirname, '../../../models/coppice-recall');

export interface TestServer {
  readonly context: AppOptions;
  readonly app: Hono<AppEnv>;
  /** Lines written so far. */
  log(): Record<string, unknown>[];
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
}

export function createContext(engine: Engine | null, flags: Record<string, string> = {}) {
  const stream = new PassThrough();
  const config = loadConfig({ flags });
  const lifecycle = new Lifecycle();
  const context = { config, lifecycle, logger: createLogger({ level: config.log.level, stream }) };
  if (engine) {
    const { shape } = engine.model;
    const pruning = pruningSettings(readPresets(config.pruning), config.pruning, shape);
    lifecycle.setReady({ ...readModel(DEMO_MODEL, 'coppice-recall'), engine, pruning });
  }
  let text = '';
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const log = () =>
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { context, log };
}

export function createTestServer(engine: Engine | null, flags: Record<string, string> = {}): TestServer {
  const { context, log } = createContext(engine, flags);
  const app = createApp(context);
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
