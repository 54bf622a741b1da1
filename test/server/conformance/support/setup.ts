/** Starts the server that the suite talks to, once, unless `COPPICE_TEST_URL` names one. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { startServerProcess } from './server-process.ts';

declare module 'vitest' {
  interface ProvidedContext {
    readonly url: string;
    readonly key: string;
    /** Of graphs; empty = the server is somebody else's, and no other is to be started. */
    readonly cacheDir: string;
  }
}

export default async function setup({ provide }: TestProject): Promise<(() => Promise<void>) | undefined> {
  const { COPPICE_TEST_URL: given, COPPICE_TEST_KEY: key = 'none' } = process.env;
  provide('key', key);
  if (given !== undefined && given !== '') {
    provide('url', given.replace(/\/+$/, ''));
    provide('cacheDir', '');
    return undefined;
  }
  const cacheDir = mkdtempSync(join(tmpdir(), 'coppice-graphs-'));
  // Few places, so that a queue is easily made.
  const server = await startServerProcess({
    cacheDir,
    config: { kv: { max_bytes: '128MiB' }, queue: { max_running: 4 } },
  });
  provide('url', server.url);
  provide('cacheDir', cacheDir);
  return async () => {
    await server.stop();
    rmSync(cacheDir, { recursive: true, force: true });
    // Whatever clients sent: no errors of our own in the log, and no warnings of Node's.
    const complaints = server
      .output()
      .split('\n')
      .filter((line) => /"level":(50|60)|Warning:/.test(line));
    if (complaints.length === 0) return;
    // What a teardown throws is shown but fails nothing.
    console.error(`the server complained:\n${complaints.slice(0, 5).join('\n')}`);
    process.exitCode = 1;
  };
}
