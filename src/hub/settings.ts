/** Which hub to ask and with which token: options before environment before the token file of the hub's own tool. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { AppError } from '../errors.ts';

const DEFAULT_ENDPOINT = 'https://huggingface.co';

/** A hub to talk to. */
export interface Hub {
  /** Without a slash at the end; may carry a path, as mirrors inside companies do. */
  readonly endpoint: string;
  /** Sent to the endpoint's origin and nowhere else; never part of a message. */
  readonly token: string | null;
}

export interface HubSettings {
  /** Default: `HF_ENDPOINT`, then https://huggingface.co. */
  readonly endpoint?: string;
  /** Default: `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, then the file `token` in `HF_HOME` (~/.cache/huggingface). */
  readonly token?: string;
  readonly env?: NodeJS.ProcessEnv;
}

/** @throws AppError `startup` for an endpoint or token that cannot be used. */
export async function readHub(settings: HubSettings): Promise<Hub> {
  const env = settings.env ?? process.env;
  const token = settings.token ?? (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN || (await readTokenFile(env)));
  return {
    endpoint: checkEndpoint(settings.endpoint ?? (env.HF_ENDPOINT || DEFAULT_ENDPOINT)),
    token: checkToken(token),
  };
}

function checkEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  // The value itself stays out of the message: it may hold a password.
  if (url && (url.username !== '' || url.password !== '')) {
    throw new AppError('startup', 'expected HF_ENDPOINT without user name and password, got both in one URL');
  }
  if (!url || !['http:', 'https:'].includes(url.protocol) || url.search !== '' || url.hash !== '') {
    throw new AppError('startup', `expected HF_ENDPOINT to be an http(s) URL, got ${JSON.stringify(text)}`);
  }
  return url.href.replace(/\/+$/, '');
}

/** Checked here because fetch would quote a malformed token in its own error message. */
function checkToken(token: string | null): string | null {
  const trimmed = token?.trim() ?? '';
  if (trimmed === '') return null;
  if (!/^[\x21-\x7e]+$/.test(trimmed)) {
    throw new AppError(
      'startup',
      'expected the hub token (HF_TOKEN) to be one word of printable ASCII, got other characters',
    );
  }
  return trimmed;
}

async function readTokenFile(env: NodeJS.ProcessEnv): Promise<string | null> {
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface');
  const path = env.HF_TOKEN_PATH || join(home, 'token');
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
    throw new AppError(
      'startup',
      `cannot read the hub token file ${path}: ${String((error as NodeJS.ErrnoException).code)}`,
    );
  }
}
