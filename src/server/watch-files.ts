/** Notices changed files by looking at them: notifications miss mounted secrets, links and renames. */
import { statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Stats } from 'node:fs';

const POLL_MS = 1000;

export interface FileWatch {
  close(): void;
}

/**
 * Calls back after any of the files has changed, come or gone since this call. Begin before the first reading, so
 * that no change falls between the two. Keeps no process alive.
 */
export function watchFiles(paths: readonly string[], onChange: () => void): FileWatch {
  let seen = paths.map((path) => fingerprint(statSync(path, { throwIfNoEntry: false })));
  let isLooking = false;
  const look = async () => {
    if (isLooking) return;
    isLooking = true;
    const now = await Promise.all(paths.map((path) => stat(path).then(fingerprint, () => ABSENT)));
    isLooking = false;
    if (now.every((text, i) => text === seen[i])) return;
    seen = now;
    onChange();
  };
  const timer = setInterval(() => void look(), POLL_MS).unref();
  return {
    close: () => {
      clearInterval(timer);
    },
  };
}

const ABSENT = '';

function fingerprint(stats: Stats | undefined): string {
  return stats === undefined ? ABSENT : [stats.ino, stats.size, stats.mtimeMs, stats.ctimeMs].join();
}
