/** HTTP to a hub: redirects under our own rules, the token for one origin only, statuses as sentences. */
import { AppError, errorMessage } from '../errors.ts';
import type { Hub } from './settings.ts';

const MAX_REDIRECTS = 5;
const MAX_JSON_BYTES = 32 * 2 ** 20;

/** What may go away by itself: a lost connection, an overloaded server. */
export class TransientError extends AppError {
  constructor(message: string, cause?: unknown) {
    super('startup', message, { cause });
  }
}

/** What a request was for, so that its failure can be told in the user's words. */
export interface Subject {
  /** `org/name`. */
  readonly repo: string;
  readonly revision: string;
  /** null = the repository itself. */
  readonly file: string | null;
}

export interface HubRequest {
  readonly subject: Subject;
  readonly method?: 'GET' | 'HEAD';
  readonly headers?: Readonly<Record<string, string>>;
  /** Stop at a redirect that leaves the endpoint's origin and return that reply. */
  readonly stayOnOrigin?: boolean;
  readonly signal?: AbortSignal | undefined;
}

/**
 * One request, redirects followed. The reply's body is not yet read.
 * @throws TransientError when the server cannot be reached or is overloaded; AppError `startup` for any other refusal.
 */
export async function hubFetch(hub: Hub, start: URL, request: HubRequest): Promise<Response> {
  const origin = new URL(hub.endpoint).origin;
  let url = start;
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const headers = new Headers(request.headers);
    if (hub.token !== null && url.origin === origin) headers.set('authorization', `Bearer ${hub.token}`);
    const response = await fetchOnce(url, { ...request, headers });
    const location = response.headers.get('location');
    if (response.status < 300 || response.status >= 400 || location === null) {
      if (response.ok) return response;
      await response.body?.cancel();
      throw statusError(hub, response, request.subject);
    }
    await response.body?.cancel();
    const next = redirectTarget(url, location);
    if (request.stayOnOrigin === true && next.origin !== origin) return response;
    url = next;
  }
  throw new AppError('startup', `expected at most ${MAX_REDIRECTS} redirects from ${origin}, got more`);
}

async function fetchOnce(
  url: URL,
  request: Omit<HubRequest, 'headers'> & { headers: Headers },
): Promise<Response> {
  try {
    return await fetch(url, {
      method: request.method ?? 'GET',
      headers: request.headers,
      redirect: 'manual',
      signal: request.signal ?? null,
    });
  } catch (error) {
    request.signal?.throwIfAborted();
    throw lostConnection(url, error);
  }
}

/** Only the origin is named: signed download addresses carry secrets in their query. */
function lostConnection(url: URL, error: unknown): TransientError {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return new TransientError(`cannot reach ${url.origin}: ${errorMessage(cause) || 'no connection'}`, error);
}

/** @throws AppError `startup` when the target is no web address or gives up encryption. */
export function redirectTarget(from: URL, location: string): URL {
  const target = URL.canParse(location, from.href) ? new URL(location, from) : null;
  if (!target || !['http:', 'https:'].includes(target.protocol)) {
    throw new AppError('startup', `expected ${from.origin} to redirect to a web address, got something else`);
  }
  if (from.protocol === 'https:' && target.protocol === 'http:') {
    throw new AppError('startup', `expected ${from.origin} to redirect to https, got ${target.origin}`);
  }
  return target;
}

function statusError(hub: Hub, response: Response, subject: Subject): AppError {
  const name = subject.file === null ? subject.repo : `${subject.file} of ${subject.repo}`;
  const page = `${hub.endpoint}/${subject.repo}`;
  const reason = response.headers.get('x-error-code');
  switch (response.status) {
    case 401:
    case 403:
      if (reason === 'GatedRepo') {
        return new AppError(
          'startup',
          `${name} is gated: accept its terms at ${page}, then set HF_TOKEN to your token`,
        );
      }
      return hub.token === null
        ? new AppError(
            'startup',
            `${name} is private, gated or does not exist: set HF_TOKEN to a token that may read ${page}`,
          )
        : new AppError(
            'startup',
            `${name} is closed to the token in use: set HF_TOKEN to one that may read ${page}`,
          );
    case 404:
      return reason === 'RevisionNotFound'
        ? new AppError('startup', `no revision ${subject.revision} of ${subject.repo} at ${hub.endpoint}`)
        : new AppError('startup', `no ${name} (revision ${subject.revision}) at ${hub.endpoint}`);
    default: {
      const message = `${hub.endpoint} answered ${response.status} for ${name}`;
      return response.status === 429 || response.status >= 500
        ? new TransientError(message)
        : new AppError('startup', message);
    }
  }
}

/**
 * The body's chunks.
 * @throws TransientError when the connection is lost midway, or the reason of the signal.
 */
export async function* readBody(
  url: URL,
  response: Response,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  if (response.body === null) return;
  // The DOM type of the same stream, which the Node types of `fetch` claim, cannot be iterated.
  const body = response.body as AsyncIterable<Uint8Array>;
  try {
    yield* body;
  } catch (error) {
    signal?.throwIfAborted();
    throw lostConnection(url, error);
  }
}

/** Reads a JSON body of bounded size. */
export async function readJson(url: URL, response: Response, signal?: AbortSignal): Promise<unknown> {
  const chunks: Uint8Array[] = [];
  let numBytes = 0;
  for await (const chunk of readBody(url, response, signal)) {
    numBytes += chunk.byteLength;
    if (numBytes > MAX_JSON_BYTES) {
      throw new AppError(
        'startup',
        `expected at most ${MAX_JSON_BYTES} bytes of JSON from ${url.origin}, got more`,
      );
    }
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (error) {
    throw new AppError('startup', `expected JSON from ${url.origin}, got something else`, { cause: error });
  }
}
