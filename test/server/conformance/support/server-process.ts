/** A server as its users start it: the built command, in a process of its own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../../../..');
export const DEMO_MODEL = join(ROOT, 'models/coppice-recall');
export const STORIES_MODEL = join(ROOT, 'test/fixtures/models/stories260K');

/** Generous: the machine may be busy with other tests. */
const START_MS = 60_000;

export interface ServerProcess {
  readonly url: string;
  readonly pid: number;
  /** Settles with the exit code; null = ended by a signal. */
  readonly exit: Promise<number | null>;
  /** Standard output and error so far. */
  output(): string;
  signal(name: NodeJS.Signals): void;
  /** Resident memory. */
  rssBytes(): number;
  /** Ends it, however it may be. */
  stop(): Promise<void>;
}

export interface StartOptions {
  /** The configuration file. */
  readonly config?: object;
  /** Folder of built graphs; one of its own if absent, which makes loading slow enough to be watched. */
  readonly cacheDir?: string;
  /** Options of Node.js itself. */
  readonly nodeArgs?: readonly string[];
  /** What must have happened before this returns. */
  readonly until?: 'listening' | 'ready';
}

export async function startServerProcess(options: StartOptions = {}): Promise<ServerProcess> {
  const folder = mkdtempSync(join(tmpdir(), 'coppice-conformance-'));
  const file = join(folder, 'config.json');
  const { config = {}, cacheDir = join(folder, 'cache'), nodeArgs = [], until = 'ready' } = options;
  writeFileSync(file, JSON.stringify({ cache_dir: cacheDir, port: 0, ...config }));
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(
    process.execPath,
    [...nodeArgs, join(ROOT, 'dist/main.js'), 'serve', '--config', file],
    {
      cwd: folder,
      env: { PATH, HOME },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let output = '';
  const listen = (data: Buffer) => (output += data.toString());
  child.stdout.on('data', listen);
  child.stderr.on('data', listen);
  const exit = once(child, 'close').then(([code]) => {
    rmSync(folder, { recursive: true, force: true });
    return code as number | null;
  });
  const sign = { listening: /"url":"([^"]+)"/, ready: /coppice is ready at (\S+)/ }[until];
  const deadlineMs = performance.now() + START_MS;
  let url: string | undefined;
  for (; url === undefined; url = sign.exec(output)?.[1]) {
    if (child.exitCode !== null || performance.now() > deadlineMs) {
      child.kill('SIGKILL');
      throw new Error(`the server did not start: ${output.slice(-2000)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const { pid = 0 } = child;
  return {
    url,
    pid,
    exit,
    output: () => output,
    signal: (name) => child.kill(name),
    rssBytes: () => readRssBytes(pid),
    async stop() {
      child.kill('SIGKILL');
      await exit;
    },
  };
}

/** Linux tells; elsewhere NaN. */
function readRssBytes(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
  } catch {
    return Number.NaN;
  }
}
