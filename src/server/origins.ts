/** Which web pages may call: CORS for HTTP, and what browsers leave unchecked (WebSockets, renamed hosts). */
import { hostname } from 'node:os';
import { isIP } from 'node:net';
import type { MiddlewareHandler } from 'hono';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import type { AppEnv } from './context.ts';

const EVERY_ORIGIN = '*';
const EXPOSED_HEADERS = 'x-request-id, x-coppice-ignored-fields, retry-after';
const ALLOWED_METHODS = 'GET, HEAD, POST';
const ALLOWED_HEADERS: readonly string[] = [
  'authorization',
  'content-type',
  'x-request-id',
  'x-coppice-pruning',
  'openai-organization',
  'openai-project',
  'openai-beta',
  'idempotency-key',
];
/** The official clients tell about themselves in headers of this prefix, more with each release. */
const CLIENT_HEADER = /^x-stainless-[a-z-]{1,40}$/;
/** Two hours, the longest that browsers of every make heed. */
const PREFLIGHT_SECONDS = '7200';

export interface CallerHeaders {
  readonly host?: string | undefined;
  readonly origin?: string | undefined;
}

export class Origins {
  readonly #allowed: ReadonlySet<string>;
  /** Names that the host header may have; null = any. */
  readonly #hosts: ReadonlySet<string> | null;

  /**
   * A page can point its own name at a loopback address and then call as if it were the server's own. A key stops
   * that; without one, a server on loopback answers only to names that are its own.
   */
  constructor({ host, cors }: Config, areKeysRequired: boolean) {
    this.#allowed = new Set(cors.origins);
    const isOpen = areKeysRequired || !isLoopback(host) || this.#allowed.has(EVERY_ORIGIN);
    const named = cors.origins
      .filter((origin) => origin !== EVERY_ORIGIN)
      .map((origin) => hostOf(origin) ?? '');
    this.#hosts = isOpen ? null : new Set([host, hostname(), ...named].map((name) => name.toLowerCase()));
  }

  get hasCors(): boolean {
    return this.#allowed.size > 0;
  }

  /** The value for `access-control-allow-origin`, null for none. */
  allowedOrigin(origin: string | undefined): string | null {
    if (this.#allowed.has(EVERY_ORIGIN)) return EVERY_ORIGIN;
    return origin !== undefined && this.#allowed.has(origin) ? origin : null;
  }

  /** Browsers send host names as their pages say them, so that an address can be nobody else's name. @throws AppError `host_not_allowed` */
  checkHost(headers: CallerHeaders): void {
    if (this.#hosts === null) return;
    const name = hostOf(`http://${headers.host ?? ''}`);
    const isOwn =
      name !== null &&
      (isIP(name) !== 0 || name === 'localhost' || name.endsWith('.localhost') || this.#hosts.has(name));
    if (isOwn) return;
    throw new AppError(
      'host_not_allowed',
      'expected the host header to name this server; API keys or cors.origins allow other names',
      { param: 'host' },
    );
  }

  /**
   * For upgrades: browsers let every page open a WebSocket and only tell which one it was.
   * @throws AppError `origin_not_allowed`, `host_not_allowed`
   */
  checkUpgrade(headers: CallerHeaders): void {
    this.checkHost(headers);
    const { origin, host } = headers;
    if (origin === undefined || this.allowedOrigin(origin) !== null) return;
    if (/^https?:\/\/(.+)$/.exec(origin)?.[1] === host?.toLowerCase()) return;
    throw new AppError('origin_not_allowed', 'expected an origin that cors.origins names', {
      param: 'origin',
    });
  }
}

/** Refuses foreign host names, answers preflights of allowed origins, and tells browsers who may read the reply. */
export function checkOrigins(origins: Origins): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    origins.checkHost({ host: c.req.header('host') ?? new URL(c.req.url).host });
    if (!origins.hasCors) return next();
    c.header('vary', 'Origin');
    const allowed = origins.allowedOrigin(c.req.header('origin'));
    if (allowed === null) return next();
    c.header('access-control-allow-origin', allowed);
    if (c.req.method !== 'OPTIONS' || c.req.header('access-control-request-method') === undefined) {
      c.header('access-control-expose-headers', EXPOSED_HEADERS);
      return next();
    }
    c.header('access-control-allow-methods', ALLOWED_METHODS);
    c.header(
      'access-control-allow-headers',
      allowedHeaders(c.req.header('access-control-request-headers') ?? ''),
    );
    c.header('access-control-max-age', PREFLIGHT_SECONDS);
    return c.body(null, 204);
  };
}

/** Ours, and those of the client's own prefix that it asks for: `*` would not cover `authorization`. */
function allowedHeaders(asked: string): string {
  const names = asked.split(',').map((name) => name.trim().toLowerCase());
  return [...ALLOWED_HEADERS, ...names.filter((name) => CLIENT_HEADER.test(name))].join(', ');
}

/** Whether only this machine reaches a server on the host. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** Lower-case host without port and brackets, or null. */
function hostOf(url: string): string | null {
  if (!URL.canParse(url)) return null;
  return (
    new URL(url).hostname
      .toLowerCase()
      .replace(/^\[(.*)\]$/, '$1')
      .replace(/\.$/, '') || null
  );
}
