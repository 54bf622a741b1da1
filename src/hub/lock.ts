/** One pull of a repository at a time, across processes and machines that share the cache folder. */
import { randomUUID } from 'node:crypto';
import { readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../errors.ts';

export interface LockOptions {
  readonly signal: AbortSignal;
  /** Called once when somebody else holds the lock. */
  readonly onWait: () => void;
  /** A holder that gives no sign of life for so long is taken for dead. */
  readonly staleMs: number;
}

/**
 * Waits for the lock file, runs `work`, removes the file. The holder touches the file four times in `staleMs`;
 * waiters look for a *change* and never compare clocks, so that skew between machines does no harm.
 * @throws AppError `startup` when the lock was lost (this process stood still), or the reason of the signal.
 */
export async function withLock<T>(
  path: string,
  options: LockOptions,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const owner = randomUUID();
  await acquire(path, owner, options);
  const lost = new AbortController();
  const beat = setInterval(() => {
    void touch(path, owner).then((ours) => {
      if (!ours) lost.abort(new AppError('startup', `lost the lock ${path} to another process: try again`));
    });
  }, options.staleMs / 4);
  beat.unref();
  try {
    return await work(AbortSignal.any([options.signal, lost.signal]));
  } catch (error) {
    lost.signal.throwIfAborted();
    throw error;
  } finally {
    clearInterval(beat);
    if (await touch(path, owner)) await rm(path, { force: true });
  }
}

async function acquire(path: string, owner: string, { signal, onWait, staleMs }: LockOptions): Promise<void> {
  let seen = '';
  let seenAtMs = performance.now();
  let waiting = false;
  for (;;) {
    signal.throwIfAborted();
    try {
      await writeFile(path, owner, { flag: 'wx' });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const now = await signOfLife(path);
    if (now !== seen) {
      seen = now;
      seenAtMs = performance.now();
    } else if (performance.now() - seenAtMs > staleMs) {
      // Renamed, not removed: of two waiters that do this at once only one succeeds.
      const aside = `${path}.${owner}`;
      await rename(path, aside).catch(() => undefined);
      await rm(aside, { force: true });
      continue;
    }
    if (!waiting) onWait();
    waiting = true;
    await sleep(Math.min(250, staleMs / 10), undefined, { signal });
  }
}

async function signOfLife(path: string): Promise<string> {
  try {
    const { ino, mtimeMs } = await stat(path);
    return `${ino} ${mtimeMs}`;
  } catch {
    return 'gone';
  }
}

/** True while the lock is ours; says so to the waiters. */
async function touch(path: string, owner: string): Promise<boolean> {
  try {
    if ((await readFile(path, 'utf8')) !== owner) return false;
    const now = new Date();
    await utimes(path, now, now);
    return true;
  } catch {
    return false;
  }
}
