/** Fetches an image from an allowed host, and never from inside the network that the server stands in. */
import { lookup as lookupName } from 'node:dns/promises';
import type { LookupAddress } from 'node:dns';
import { request as requestHttp } from 'node:http';
import type { IncomingMessage, RequestOptions } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { LookupFunction } from 'node:net';
import { AppError, errorMessage } from '../../errors.ts';
import { isPublicAddress } from './addresses.ts';
import { IMAGE_TYPES, imageTypeOf, sniffImageType } from './image-type.ts';
import type { ImageType } from './image-type.ts';
import { checkRemoteUrl } from './image-url.ts';
import type { UrlRules } from './image-url.ts';

export interface FetchRules extends UrlRules {
  readonly limitBytes: number;
  /** For all redirects and the body together. */
  readonly timeoutMs: number;
  /** The addresses of a name; other than the system's only in tests. */
  readonly resolve?: (name: string) => Promise<LookupAddress[]>;
}

export interface Image {
  readonly type: ImageType;
  readonly bytes: Uint8Array;
}

const MAX_REDIRECTS = 3;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/**
 * @param param path of the field that holds the URL, for errors
 * @throws AppError `unsupported_value`, `invalid_request`
 */
export async function fetchImage(
  text: string,
  rules: FetchRules,
  param: string,
  signal?: AbortSignal,
): Promise<Image> {
  const timeout = AbortSignal.timeout(rules.timeoutMs);
  const ended = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
  try {
    return await follow(checkRemoteUrl(text, rules, param), rules, param, ended);
  } catch (error) {
    if (error instanceof AppError) throw error;
    signal?.throwIfAborted();
    const reason = timeout.aborted ? `no answer within ${rules.timeoutMs} ms` : reasonOf(error);
    throw new AppError('invalid_request', `${param}: cannot fetch the image: ${reason}`, {
      param,
      cause: error,
    });
  }
}

async function follow(start: URL, rules: FetchRules, param: string, signal: AbortSignal): Promise<Image> {
  let url = start;
  for (let numRedirects = 0; ; numRedirects++) {
    const incoming = await get(url, rules, signal);
    try {
      const { statusCode = 0, headers } = incoming;
      if (!REDIRECTS.has(statusCode) || headers.location === undefined)
        return await readImage(incoming, rules.limitBytes);
      if (numRedirects === MAX_REDIRECTS) throw new Refusal(`more than ${MAX_REDIRECTS} redirects`);
      if (!URL.canParse(headers.location, url.href)) throw new Refusal('a redirect to what is no URL');
      const next = new URL(headers.location, url);
      if (url.protocol === 'https:' && next.protocol === 'http:')
        throw new Refusal('a redirect from https to http');
      url = checkRemoteUrl(next.href, rules, param);
    } finally {
      incoming.destroy();
    }
  }
}

/** What the other side did that a client may hear of. */
class Refusal extends Error {}

/** Details of connections stay here: they would tell what stands in our network. */
function reasonOf(error: unknown): string {
  if (error instanceof Refusal) return errorMessage(error);
  return 'the host cannot be reached or does not speak HTTP';
}

function get(url: URL, rules: FetchRules, signal: AbortSignal): Promise<IncomingMessage> {
  const options: RequestOptions = {
    // An agent of its own: no connection is shared, no proxy of the environment stands between.
    agent: false,
    headers: { accept: 'image/png, image/jpeg, image/webp, image/gif', 'accept-encoding': 'identity' },
    lookup: publicLookup(rules),
    signal,
  };
  return new Promise((resolve, reject) => {
    const send = url.protocol === 'https:' ? requestHttps : requestHttp;
    send(url, options, resolve).once('error', reject).end();
  });
}

/** Runs when the connection is made, which then goes to the very addresses checked: a name cannot change between. */
function publicLookup({ resolve = resolveName, isPublic = isPublicAddress }: FetchRules): LookupFunction {
  return (name, options, callback) => {
    resolve(name).then(
      (addresses) => {
        const [first] = addresses;
        if (first === undefined || !addresses.every(({ address }) => isPublic(address)))
          callback(new Refusal('the host has no public address, or others beside it'), []);
        else if (options.all === true) callback(null, addresses);
        else callback(null, first.address, first.family);
      },
      (error: unknown) => {
        callback(error as NodeJS.ErrnoException, []);
      },
    );
  };
}

function resolveName(name: string): Promise<LookupAddress[]> {
  return lookupName(name, { all: true });
}

async function readImage(incoming: IncomingMessage, limitBytes: number): Promise<Image> {
  const { statusCode = 0, headers } = incoming;
  if (statusCode !== 200) throw new Refusal(`expected status 200, got ${statusCode}`);
  if (imageTypeOf(headers['content-type'] ?? '') === null)
    throw new Refusal(`expected a content-type of ${IMAGE_TYPES}`);
  if ((headers['content-encoding'] ?? 'identity') !== 'identity')
    throw new Refusal('expected a body without content-encoding');
  const tooLarge = () => new Refusal(`expected at most ${limitBytes} bytes`);
  if (Number(headers['content-length'] ?? 0) > limitBytes) throw tooLarge();
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    sizeBytes += chunk.byteLength;
    if (sizeBytes > limitBytes) throw tooLarge();
    chunks.push(chunk);
  }
  const bytes = Buffer.concat(chunks);
  const type = sniffImageType(bytes);
  if (type === null) throw new Refusal(`expected the bytes of ${IMAGE_TYPES}`);
  return { type, bytes };
}
