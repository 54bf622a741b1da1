/** A hub on loopback for tests: API, tree and resolve addresses over files in memory, with faults on demand. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

export const REPO = 'karpathy/stories260K';

interface SeenRequest {
  readonly host: string;
  readonly path: string;
  readonly method: string;
  readonly range: string | null;
  readonly authorization: string | null;
}

/** Everything a test may change between two pulls. */
interface HubState {
  files: Map<string, Buffer>;
  commit: string;
  /** Paths stored with LFS: served by redirect to another origin. */
  lfs: Set<string>;
  /** Required of every request to the hub itself; null = open. */
  token: string | null;
  /** Cut the connection after so many bytes of a path, once. */
  cutAfter: Map<string, number>;
  ignoreRange: boolean;
  /** Listing without any checksum, as simple mirrors do. */
  bareListing: boolean;
  /** Tags that are no checksums, as a plain file server gives. */
  plainEtags: boolean;
  /** Content sent in place of the listed one. */
  tampered: Map<string, Buffer>;
  /** Entries added to the listing as they are. */
  extraEntries: unknown[];
  /** Files on a page of the listing. */
  pageSize: number;
  /** HTTP statuses to answer with, first to last, before files are served again. */
  failures: number[];
  seen: SeenRequest[];
  /** Body bytes sent, by path. */
  served: Map<string, number>;
}

/** The files of a fixture folder by path. */
export function readTree(folder: string): Map<string, Buffer> {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((e) => e.isFile());
  return new Map(
    entries.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(folder.length + 1).replaceAll('\\', '/'), readFileSync(path)];
    }),
  );
}

const sha256 = (content: Buffer): string => createHash('sha256').update(content).digest('hex');
const gitBlob = (content: Buffer): string =>
  createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');

export interface TestHub extends HubState {
  readonly endpoint: string;
  /** Origin that the large files are redirected to. */
  readonly storage: string;
  close(): Promise<void>;
}

export async function startHub(files: Map<string, Buffer>): Promise<TestHub> {
  const state: HubState = {
    files,
    commit: 'a'.repeat(40),
    lfs: new Set([...files.keys()].filter((path) => path.endsWith('.safetensors'))),
    token: null,
    cutAfter: new Map(),
    ignoreRange: false,
    bareListing: false,
    plainEtags: false,
    tampered: new Map(),
    extraEntries: [],
    pageSize: 1000,
    failures: [],
    seen: [],
    served: new Map(),
  };
  const hub = createServer((request, response) => {
    answerHub(state, storage, request, response);
  });
  const blobs = createServer((request, response) => {
    note(state, request);
    sendFile(state, decodeURIComponent(request.url!.slice('/blobs/'.length)), request, response);
  });
  const origins = await Promise.all(
    [hub, blobs].map(async (server) => {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    }),
  );
  const storage = origins[1]!;
  return Object.assign(state, {
    endpoint: origins[0]!,
    storage,
    async close() {
      for (const server of [hub, blobs]) {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      }
    },
  });
}

function note(state: HubState, request: IncomingMessage): void {
  state.seen.push({
    host: `http://${request.headers.host ?? ''}`,
    path: decodeURIComponent(request.url!),
    method: request.method!,
    range: request.headers.range ?? null,
    authorization: request.headers.authorization ?? null,
  });
}

function fail(response: ServerResponse, status: number, code: string): void {
  response.writeHead(status, { 'x-error-code': code }).end(JSON.stringify({ error: code }));
}

function answerHub(
  state: HubState,
  storage: string,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  note(state, request);
  const url = new URL(request.url!, 'http://hub');
  if (state.token !== null && request.headers.authorization !== `Bearer ${state.token}`) {
    fail(response, 401, 'GatedRepo');
    return;
  }
  const path = url.pathname;
  if (path.startsWith(`/api/models/${REPO}/revision/`)) {
    const revision = decodeURIComponent(path.split('/revision/')[1]!);
    if (![state.commit, 'main', 'refs/pr/1'].includes(revision)) fail(response, 404, 'RevisionNotFound');
    else response.end(JSON.stringify({ id: REPO, sha: state.commit }));
  } else if (path === `/api/models/${REPO}/tree/${state.commit}`) {
    answerTree(state, url, response);
  } else if (path.startsWith(`/${REPO}/resolve/${state.commit}/`)) {
    answerFile(state, storage, request, response, decodeURIComponent(path.split(`/${state.commit}/`)[1]!));
  } else {
    fail(response, 404, 'RepoNotFound');
  }
}

function answerTree(state: HubState, url: URL, response: ServerResponse): void {
  const entries = [...state.files].map(([path, content]) => {
    const entry = { type: 'file', path, size: content.length };
    if (state.bareListing) return entry;
    const lfs = { oid: sha256(content), size: content.length, pointerSize: 134 };
    // The pointer's own id, as the real hub gives it: it must not be taken for the content's.
    return state.lfs.has(path) ? { ...entry, oid: '0'.repeat(40), lfs } : { ...entry, oid: gitBlob(content) };
  });
  const all = [
    { type: 'directory', path: 'duo-attention', size: 0, oid: '0'.repeat(40) },
    ...entries,
    ...state.extraEntries,
  ];
  const start = Number(url.searchParams.get('cursor') ?? 0);
  const end = start + state.pageSize;
  if (end < all.length) {
    response.setHeader(
      'link',
      `<https://elsewhere.invalid${url.pathname}?recursive=true&cursor=${end}>; rel="next"`,
    );
  }
  response.end(JSON.stringify(all.slice(start, end)));
}

function answerFile(
  state: HubState,
  storage: string,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
): void {
  const status = request.method === 'GET' ? state.failures.shift() : undefined;
  const content = state.files.get(path);
  if (status !== undefined || !content) {
    fail(response, status ?? 404, 'EntryNotFound');
    return;
  }
  response.setHeader('x-repo-commit', state.commit);
  if (state.lfs.has(path)) {
    response.setHeader('x-linked-etag', `"${sha256(content)}"`);
    response.writeHead(302, { location: `${storage}/blobs/${encodeURIComponent(path)}` }).end();
    return;
  }
  response.setHeader('etag', state.plainEtags ? '"5f-60a"' : `"${gitBlob(content)}"`);
  sendFile(state, path, request, response);
}

function sendFile(state: HubState, path: string, request: IncomingMessage, response: ServerResponse): void {
  const content = state.tampered.get(path) ?? state.files.get(path)!;
  const start = state.ignoreRange ? 0 : Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const body = content.subarray(start);
  response.setHeader('content-length', body.length);
  if (start > 0) {
    response.setHeader('content-range', `bytes ${start}-${content.length - 1}/${content.length}`);
    response.statusCode = 206;
  }
  const cut = state.cutAfter.get(path);
  state.cutAfter.delete(path);
  const sent = cut === undefined ? body : body.subarray(0, cut);
  state.served.set(path, (state.served.get(path) ?? 0) + (request.method === 'HEAD' ? 0 : sent.length));
  if (cut === undefined) response.end(body);
  else response.write(sent, () => setTimeout(() => response.destroy(), 20));
}
