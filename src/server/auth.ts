/** Asks callers for their API key, over HTTP and in WebSocket upgrades. */
import type { MiddlewareHandler } from 'hono';
import { AppError } from '../errors.ts';
import type { ApiKeys } from './api-keys.ts';
import type { AppEnv } from './context.ts';

/** Who calls, as far as limits need to tell callers apart. */
export interface Client {
  /** Names the key without telling it; null = no keys are configured. */
  readonly keyName: string | null;
}

const ANYONE: Client = { keyName: null };

/** What of a request says who calls; names as Node writes them. */
export interface CredentialHeaders {
  readonly authorization?: string | undefined;
  readonly upgrade?: string | undefined;
  readonly 'sec-websocket-protocol'?: string | undefined;
}

/** Browsers cannot set headers of a WebSocket: OpenAI's client puts the key among the subprotocols. */
const KEY_PROTOCOL = 'openai-insecure-api-key.';

/** The caller, or null when a key is required and none or a wrong one is shown. */
export function authenticate(keys: ApiKeys, headers: CredentialHeaders): Client | null {
  if (!keys.areRequired) return ANYONE;
  const key = readKey(headers);
  const keyName = key === null ? null : keys.nameOf(key);
  return keyName === null ? null : { keyName };
}

function readKey(headers: CredentialHeaders): string | null {
  const bearer = /^bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1];
  if (bearer !== undefined) return bearer;
  if (headers.upgrade?.toLowerCase() !== 'websocket') return null;
  const offered = (headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
  return offered.find((name) => name.startsWith(KEY_PROTOCOL))?.slice(KEY_PROTOCOL.length) ?? null;
}

/** Of the subprotocols that a client offers, one to confirm: a key only if nothing else is there. */
export function chooseSubprotocol(offered: ReadonlySet<string>): string | false {
  const names = [...offered];
  return names.find((name) => !name.startsWith(KEY_PROTOCOL)) ?? names[0] ?? false;
}

/** Goes with every 401. */
export const CHALLENGE: readonly [name: string, value: string] = ['www-authenticate', 'Bearer'];

export function invalidKey(): AppError {
  return new AppError('invalid_api_key', 'expected a valid API key as "Authorization: Bearer <key>"');
}

/** Lets through who shows a key, and anyone to public paths; notes the caller as `client`. */
export function requireKey(keys: ApiKeys, publicPaths: ReadonlySet<string>): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const client = authenticate(keys, { authorization: c.req.header('authorization') });
    if (client === null && !publicPaths.has(c.req.path)) {
      c.header(...CHALLENGE);
      throw invalidKey();
    }
    if (client !== null && client.keyName !== null) c.set('client', client.keyName);
    await next();
  };
}
