/** Which image URLs may be fetched: http and https, of hosts that the configuration names. */
import { isIP } from 'node:net';
import { AppError } from '../../errors.ts';
import { isPublicAddress } from './addresses.ts';

/** Beyond this a URL is an attack or a mistake. */
const MAX_URL_CHARACTERS = 8192;

export interface UrlRules {
  /** Exact `host` (the scheme's own port) or `host:port`, as URLs spell them. */
  readonly allowedHosts: readonly string[];
  /** Other than `isPublicAddress` only in tests. */
  readonly isPublic?: (address: string) => boolean;
}

/**
 * What can be said without a connection; addresses behind names are checked when one is made.
 * @throws AppError `unsupported_value`, `invalid_request` for what is no URL
 */
export function checkRemoteUrl(text: string, rules: UrlRules, param: string): URL {
  const refuse = (message: string) => new AppError('unsupported_value', `${param}: ${message}`, { param });
  if (text.length > MAX_URL_CHARACTERS || !URL.canParse(text))
    throw new AppError('invalid_request', `${param}: expected a URL`, { param });
  const url = new URL(text);
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw refuse('expected a URL that begins with data:, https: or http:');
  if (url.username !== '' || url.password !== '')
    throw refuse('expected a URL without user name and password');
  if (!isAllowed(url, rules.allowedHosts))
    throw refuse('expected a host that images.allowed_hosts names, or the image itself as a data: URL');
  const address = addressOf(url);
  if (address !== null && !(rules.isPublic ?? isPublicAddress)(address))
    throw refuse('expected a host with a public address');
  return url;
}

/** The host, where it is an address rather than a name. */
function addressOf(url: URL): string | null {
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  return isIP(host) === 0 ? null : host;
}

/** Parsing gives names, ports and every spelling of an address the one form that is compared. */
function isAllowed(url: URL, allowedHosts: readonly string[]): boolean {
  return allowedHosts.some((entry) => {
    const allowed = `${url.protocol}//${entry}`;
    return URL.canParse(allowed) && new URL(allowed).host === url.host;
  });
}
