/** Where pulled models lie: `<cache>/models/<org>--<name>/<commit>/`, with `refs/<revision>` naming commits. */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { AppError } from '../errors.ts';
import { chooseRevision, isCommit, tryParseHubId } from './id.ts';

/** Absolute folder of a repository, all its commits in it. */
export function repoFolder(cacheDir: string, repo: string): string {
  return resolve(cacheDir, 'models', repo.replace('/', '--'));
}

export async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** A revision may hold slashes (`refs/pr/1`): encoded, it is one file name. */
function refFile(folder: string, revision: string): string {
  return join(folder, 'refs', encodeURIComponent(revision));
}

/** Records which commit `revision` named when it was last pulled. */
export async function writeRef(folder: string, revision: string, commit: string): Promise<void> {
  const path = refFile(folder, revision);
  await mkdir(join(folder, 'refs'), { recursive: true });
  const draft = `${path}.${randomUUID()}`;
  await writeFile(draft, `${commit}\n`);
  await rename(draft, path);
}

async function readRef(folder: string, revision: string): Promise<string | null> {
  try {
    const commit = (await readFile(refFile(folder, revision), 'utf8')).trim();
    return isCommit(commit) ? commit : null;
  } catch {
    return null;
  }
}

/**
 * The absolute folder of a model: an existing folder itself, or what was pulled under a hub id. Never asks the network.
 * @throws AppError `startup` when there is no such folder.
 */
export async function resolveModel(
  idOrFolder: string,
  options: { cacheDir: string; revision?: string },
): Promise<string> {
  if (await isFolder(idOrFolder)) return resolve(idOrFolder);
  const id = tryParseHubId(idOrFolder);
  if (!id) throw new AppError('startup', `model folder ${idOrFolder} not found`);
  const revision = chooseRevision(id, options.revision);
  const folder = repoFolder(options.cacheDir, id.repo);
  const commit = isCommit(revision) ? revision : await readRef(folder, revision);
  if (commit !== null && (await isFolder(join(folder, commit)))) return join(folder, commit);
  const asked = options.revision === undefined ? idOrFolder : `${id.repo}@${revision}`;
  throw new AppError(
    'startup',
    `model folder ${idOrFolder} not found; if it is a hub id, run: coppice pull ${asked}`,
  );
}
