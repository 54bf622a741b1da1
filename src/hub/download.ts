/** One file from a hub to the disk: goes on where a broken download stopped, and is checked before it counts. */
import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../errors.ts';
import { hubFetch, readBody, TransientError } from './http.ts';
import { fileUrl } from './listing.ts';
import type { Checksum, HubFile } from './listing.ts';
import type { Hub } from './settings.ts';

export interface Download {
  readonly hub: Hub;
  /** `org/name`. */
  readonly repo: string;
  readonly commit: string;
  readonly file: HubFile;
  /** Where the checked file goes; `<target>.part` holds it until then. */
  readonly target: string;
  /** How many failures in a row without a new byte before giving up. */
  readonly retries: number;
  /** Before the first retry; doubles with each. */
  readonly retryDelayMs: number;
  readonly onReceived: (receivedBytes: number) => void;
  readonly onNotice: (line: string) => void;
  readonly signal: AbortSignal;
}

/** @throws AppError `startup`, the reason of the signal, or an error of the file system. */
export async function downloadFile(job: Download): Promise<void> {
  const part = `${job.target}.part`;
  await receiveAll(job, part);
  job.signal.throwIfAborted();
  const { checksum, path } = job.file;
  // What lies on the disk is checked, not what went past: an older half may have been damaged since.
  const actual = checksum && (await hashFile(part, checksum.kind, job.file.sizeBytes));
  if (checksum && actual !== checksum.hex) {
    await rm(part, { force: true });
    throw new AppError(
      'startup',
      `expected ${path} of ${job.repo} to have the ${checksum.kind} checksum ${checksum.hex}, got ${String(actual)}; deleted it`,
    );
  }
  await rename(part, job.target);
}

/** Fills the part file up to the listed size, through as many connections as it takes. */
async function receiveAll(job: Download, part: string): Promise<void> {
  const { sizeBytes } = job.file;
  const handle = await open(part, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW);
  try {
    let { size } = await handle.stat();
    if (size > sizeBytes) {
      size = 0;
      await handle.truncate(0);
    }
    for (let failures = 0; size < sizeBytes;) {
      try {
        await receiveRest(job, handle, size);
        break;
      } catch (error) {
        const before = size;
        ({ size } = await handle.stat());
        failures = size > before ? 1 : failures + 1;
        if (!(error instanceof TransientError) || failures > job.retries) throw error;
        job.onNotice(`${error.message}; trying again`);
        await sleep(job.retryDelayMs * 2 ** (failures - 1), undefined, { signal: job.signal });
      }
    }
    // Before the rename, or a power cut could leave the final name on an empty file.
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** One connection: asks for the bytes from `offset` on and appends what comes. */
async function receiveRest(job: Download, handle: FileHandle, offset: number): Promise<void> {
  const { file, hub, repo, commit, signal } = job;
  const url = fileUrl(hub, { repo, revision: commit, file: file.path });
  // A compressed body would make offsets meaningless.
  const headers: Record<string, string> = { 'accept-encoding': 'identity' };
  if (offset > 0) headers.range = `bytes=${offset}-`;
  const subject = { repo, revision: commit, file: file.path };
  const response = await hubFetch(hub, url, { subject, headers, signal });
  let position = response.status === 206 ? offset : 0;
  const resumed = response.headers.get('content-range')?.startsWith(`bytes ${offset}-`) === true;
  if (response.status === 206 && !resumed) {
    await response.body?.cancel();
    await handle.truncate(0);
    throw new TransientError(`expected bytes of ${file.path} from ${offset} on, got another range`);
  }
  for await (const chunk of readBody(url, response, signal)) {
    if (position + chunk.byteLength > file.sizeBytes) {
      await handle.truncate(0);
      throw new AppError(
        'startup',
        `expected ${file.path} of ${repo} to have ${file.sizeBytes} bytes, got more`,
      );
    }
    await handle.write(chunk, 0, chunk.byteLength, position);
    position += chunk.byteLength;
    job.onReceived(position);
  }
  if (position < file.sizeBytes) {
    throw new TransientError(`expected ${file.sizeBytes} bytes of ${file.path}, got ${position}`);
  }
}

/** Lower-case hex; `git` hashes the content as git does a blob. */
export async function hashFile(path: string, kind: Checksum['kind'], sizeBytes: number): Promise<string> {
  const hash = createHash(kind === 'sha256' ? 'sha256' : 'sha1');
  if (kind === 'git') hash.update(`blob ${sizeBytes}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
