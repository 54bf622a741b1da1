/** What a hub has: the commit behind a revision, and the files of a commit with their sizes and checksums. */
import { z } from 'zod';
import { AppError } from '../errors.ts';
import { firstMistake } from '../validation.ts';
import { hubFetch, readJson } from './http.ts';
import type { Subject } from './http.ts';
import { isCommit } from './id.ts';
import type { Hub } from './settings.ts';

const MAX_PAGES = 100;

export interface Checksum {
  /** `git` is the sha1 that git gives the content as a blob. */
  readonly kind: 'sha256' | 'git';
  /** Lower-case hex. */
  readonly hex: string;
}

export interface HubFile {
  /** Relative, with forward slashes, as the server wrote it: see `select.ts` before using it as a path. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly checksum: Checksum | null;
}

const revisionReply = z.object({ sha: z.string() });
const treeReply = z.array(
  z.object({
    type: z.string(),
    path: z.string(),
    size: z.int().nonnegative().default(0),
    oid: z.string().optional(),
    lfs: z.object({ oid: z.string(), size: z.int().nonnegative() }).nullish(),
  }),
);

/** A 64-digit name is a sha256, a 40-digit one git's; anything else is no checksum that we know. */
function toChecksum(text: string | null | undefined): Checksum | null {
  const hex = /^(?:W\/)?"?(?:sha256:)?([0-9a-f]{64}|[0-9a-f]{40})"?$/.exec(text ?? '')?.[1];
  return hex === undefined ? null : { kind: hex.length === 64 ? 'sha256' : 'git', hex };
}

function parseReply<T>(schema: z.ZodType<T>, json: unknown, url: URL): T {
  const parsed = schema.safeParse(json, { reportInput: true });
  if (parsed.success) return parsed.data;
  const { path, message } = firstMistake(parsed.error);
  throw new AppError(
    'startup',
    `expected a hub's reply from ${url.origin}, got at ${path || 'its top'}: ${message}`,
  );
}

/** The commit (40 hex digits) that `revision` names now. */
export async function fetchCommit(
  hub: Hub,
  repo: string,
  revision: string,
  signal?: AbortSignal,
): Promise<string> {
  const url = new URL(`${hub.endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}`);
  const response = await hubFetch(hub, url, { subject: { repo, revision, file: null }, signal });
  const { sha } = parseReply(revisionReply, await readJson(url, response, signal), url);
  if (!isCommit(sha) || (isCommit(revision) && sha !== revision)) {
    throw new AppError(
      'startup',
      `expected ${url.origin} to name the commit of ${repo}@${revision}, got another id`,
    );
  }
  return sha;
}

/** Every file of a commit, all pages. */
export async function fetchFiles(
  hub: Hub,
  repo: string,
  commit: string,
  signal?: AbortSignal,
): Promise<HubFile[]> {
  const files: HubFile[] = [];
  const url = new URL(`${hub.endpoint}/api/models/${repo}/tree/${commit}?recursive=true`);
  for (let page = 0; page < MAX_PAGES; page++) {
    const response = await hubFetch(hub, url, { subject: { repo, revision: commit, file: null }, signal });
    for (const entry of parseReply(treeReply, await readJson(url, response, signal), url)) {
      if (entry.type !== 'file') continue;
      // With LFS, `oid` and `size` may be those of the pointer; `lfs` always describes the content.
      const checksum = toChecksum(entry.lfs ? entry.lfs.oid : entry.oid);
      files.push({ path: entry.path, sizeBytes: entry.lfs?.size ?? entry.size, checksum });
    }
    const next = /<([^>]+)>\s*;[^,]*rel="?next"?/.exec(response.headers.get('link') ?? '')?.[1];
    if (next === undefined || !URL.canParse(next, url.href)) return files;
    // Only the query is taken: mirrors often leave the original host in this header.
    url.search = new URL(next, url).search;
  }
  throw new AppError('startup', `expected at most ${MAX_PAGES} pages of files in ${repo}, got more`);
}

export function fileUrl(hub: Hub, { repo, revision, file }: Subject & { file: string }): URL {
  const path = file.split('/').map(encodeURIComponent).join('/');
  return new URL(`${hub.endpoint}/${repo}/resolve/${encodeURIComponent(revision)}/${path}`);
}

/** The checksum that the reply's headers give, for servers whose listing has none. */
export async function fetchChecksum(
  hub: Hub,
  subject: Subject & { file: string },
  signal?: AbortSignal,
): Promise<Checksum | null> {
  const request = { subject, method: 'HEAD', stayOnOrigin: true, signal } as const;
  const { headers } = await hubFetch(hub, fileUrl(hub, subject), request);
  return toChecksum(headers.get('x-linked-etag')) ?? toChecksum(headers.get('etag'));
}
