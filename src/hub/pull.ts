/** `coppice pull`: brings what the server needs of a hub's repository into the cache folder, whole or not at all. */
import { createHash } from 'node:crypto';
import {
  copyFile,
  constants,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  statfs,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { AppError } from '../errors.ts';
import { isFolder, repoFolder, writeRef } from './cache.ts';
import { downloadFile, hashFile } from './download.ts';
import { chooseRevision, isCommit, parseHubId } from './id.ts';
import { fetchChecksum, fetchCommit, fetchFiles } from './listing.ts';
import type { HubFile } from './listing.ts';
import { withLock } from './lock.ts';
import { selectFiles, selectShards } from './select.ts';
import { readHub } from './settings.ts';
import type { Hub, HubSettings } from './settings.ts';

/** State of a pull, after each piece received. Bytes found on disk count as received. */
export interface PullProgress {
  /** Path in the repository; holds no control characters. */
  readonly file: string;
  readonly receivedBytes: number;
  readonly totalBytes: number;
  readonly overallReceivedBytes: number;
  readonly overallTotalBytes: number;
}

export interface PullOptions extends HubSettings {
  /** Models go to `<cacheDir>/models`. */
  readonly cacheDir: string;
  /** Branch, tag or commit; default: what the id says after `@`, then `main`. */
  readonly revision?: string;
  readonly onProgress?: (progress: PullProgress) => void;
  /** One line for the user: waiting for another pull, a lost connection. */
  readonly onNotice?: (line: string) => void;
  readonly signal?: AbortSignal;
  /** Failures in a row without a new byte before giving up; default 4. */
  readonly retries?: number;
  /** Default 1000; doubles with each failure. */
  readonly retryDelayMs?: number;
}

/** One pull of one commit, everything resolved. */
interface Pull {
  readonly hub: Hub;
  readonly repo: string;
  readonly commit: string;
  /** Of the repository in the cache. */
  readonly folder: string;
  readonly options: PullOptions;
  readonly signal: AbortSignal;
}

/** Holds checked files and `.part` files between a broken pull and the next. */
const INCOMING = '.incoming';
const STAGE = '.stage';
const LOCK_STALE_MS = 10_000;

/**
 * Downloads a model, or finds it already there, and returns its absolute folder.
 * A full commit id that is already there needs no network.
 * @throws AppError `startup` with one line for the user; the signal's reason when aborted.
 */
export async function pullModel(hubId: string, options: PullOptions): Promise<string> {
  const id = parseHubId(hubId);
  const revision = chooseRevision(id, options.revision);
  const folder = repoFolder(options.cacheDir, id.repo);
  if (isCommit(revision) && (await isFolder(join(folder, revision)))) return join(folder, revision);
  const hub = await readHub(options);
  const signal = options.signal ?? new AbortController().signal;
  try {
    signal.throwIfAborted();
    const commit = await fetchCommit(hub, id.repo, revision, signal);
    const target = join(folder, commit);
    if (!(await isFolder(target))) {
      await mkdir(folder, { recursive: true });
      const onWait = () => options.onNotice?.(`waiting for another pull of ${id.repo}`);
      await withLock(join(folder, '.lock'), { signal, onWait, staleMs: LOCK_STALE_MS }, async (held) => {
        if (await isFolder(target)) return;
        await pullCommit({ hub, repo: id.repo, commit, folder, options, signal: held }, target);
      });
    }
    if (!isCommit(revision)) await writeRef(folder, revision, commit);
    return target;
  } catch (error) {
    signal.throwIfAborted();
    throw fileSystemError(error, options.cacheDir);
  }
}

async function pullCommit(pull: Pull, target: string): Promise<void> {
  const { hub, repo, commit, folder, signal } = pull;
  const stage = join(folder, STAGE);
  const incoming = join(folder, INCOMING);
  await rm(stage, { recursive: true, force: true });
  await mkdir(incoming, { recursive: true });
  const all = await fetchFiles(hub, repo, commit, signal);
  const selection = selectFiles(repo, all);
  let wanted = selection.files;
  if (selection.index) {
    const path = await obtain(pull, await withChecksum(pull, selection.index), () => undefined);
    wanted = [...wanted, ...selectShards(repo, all, await readFile(path, 'utf8'))];
  }
  const files: HubFile[] = [];
  for (const file of wanted) files.push(await withChecksum(pull, file));
  await assertRoom(pull, files);
  await obtainAll(pull, files);
  for (const file of files) {
    const place = join(stage, ...file.path.split('/'));
    await mkdir(dirname(place), { recursive: true });
    await rename(incomingPath(pull, file), place);
  }
  signal.throwIfAborted();
  await rename(stage, target);
  await rm(incoming, { recursive: true, force: true });
}

async function obtainAll(pull: Pull, files: readonly HubFile[]): Promise<void> {
  const overallTotalBytes = files.reduce((sum, file) => sum + file.sizeBytes, 0);
  let doneBytes = 0;
  for (const file of files) {
    let reportedBytes = -1;
    const report = (receivedBytes: number) => {
      reportedBytes = receivedBytes;
      pull.options.onProgress?.({
        file: file.path,
        receivedBytes,
        totalBytes: file.sizeBytes,
        overallReceivedBytes: doneBytes + receivedBytes,
        overallTotalBytes,
      });
    };
    await obtain(pull, file, report);
    // What was on disk already, or is empty, came in no piece.
    if (reportedBytes < file.sizeBytes) report(file.sizeBytes);
    doneBytes += file.sizeBytes;
  }
}

/** Named by content, so that a download outlives a new commit that did not touch the file. */
function incomingPath({ folder, commit }: Pull, { path, checksum }: HubFile): string {
  const key = createHash('sha256').update(`${path}\n${checksum?.hex ?? commit}`);
  return join(folder, INCOMING, key.digest('hex'));
}

/** A checked copy of the file in the incoming folder: already there, from another commit, or downloaded. */
async function obtain(pull: Pull, file: HubFile, onReceived: (bytes: number) => void): Promise<string> {
  const { hub, repo, commit, options, signal } = pull;
  const path = incomingPath(pull, file);
  if ((await hasSize(path, file.sizeBytes)) || (await reuse(pull, file, path))) return path;
  await downloadFile({
    hub,
    repo,
    commit,
    file,
    target: path,
    retries: options.retries ?? 4,
    retryDelayMs: options.retryDelayMs ?? 1000,
    onReceived,
    onNotice: options.onNotice ?? (() => undefined),
    signal,
  });
  return path;
}

/** Never follows a link: only a regular file counts. */
async function hasSize(path: string, sizeBytes: number): Promise<boolean> {
  return lstat(path).then(
    (found) => found.isFile() && found.size === sizeBytes,
    () => false,
  );
}

/** Weights seldom change from commit to commit: takes an equal file of an older one, as a link where that works. */
async function reuse(
  { folder, signal }: Pull,
  { path, sizeBytes, checksum }: HubFile,
  target: string,
): Promise<boolean> {
  if (!checksum) return false;
  for (const commit of (await readdir(folder)).filter(isCommit)) {
    signal.throwIfAborted();
    const older = join(folder, commit, ...path.split('/'));
    if (!(await hasSize(older, sizeBytes))) continue;
    if ((await hashFile(older, checksum.kind, sizeBytes)) !== checksum.hex) continue;
    await link(older, target).catch(() => copyFile(older, target, constants.COPYFILE_FICLONE));
    return true;
  }
  return false;
}

/** Weights are never taken on trust; a small side file may be, when the hub says nothing about it. */
async function withChecksum({ hub, repo, commit, signal }: Pull, file: HubFile): Promise<HubFile> {
  if (file.checksum) return file;
  const checksum = await fetchChecksum(hub, { repo, revision: commit, file: file.path }, signal);
  if (!checksum && file.path.endsWith('.safetensors')) {
    throw new AppError('startup', `expected ${hub.endpoint} to give a checksum of ${file.path}, got none`);
  }
  return { ...file, checksum };
}

/** @throws AppError `startup` when the disk has not enough room, before an hour was spent filling it. */
async function assertRoom(pull: Pull, files: readonly HubFile[]): Promise<void> {
  const { bavail, bsize } = await statfs(pull.folder);
  let neededBytes = 0;
  for (const file of files) {
    const path = incomingPath(pull, file);
    const size = await lstat(path)
      .catch(() => lstat(`${path}.part`))
      .then(
        (found) => found.size,
        () => 0,
      );
    neededBytes += Math.max(0, file.sizeBytes - size);
  }
  if (neededBytes > bavail * bsize) {
    throw new AppError(
      'startup',
      `expected ${gib(neededBytes)} GiB free in ${pull.folder} for ${pull.repo}, got ${gib(bavail * bsize)} GiB`,
    );
  }
}

function gib(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(2);
}

/** Errors of the file system as one line for the user; all others unchanged. */
export function fileSystemError(error: unknown, cacheDir: string): unknown {
  if (error instanceof AppError || !(error instanceof Error)) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new AppError('startup', `disk full: no room for the model in ${cacheDir}`, { cause: error });
  }
  if (code === undefined || syscall === undefined) return error;
  return new AppError('startup', `cannot write to the cache folder ${cacheDir}: ${error.message}`, {
    cause: error,
  });
}
