/** The keys that clients may show: from the configuration and from a file that is read again when it changes. */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Config } from '../config.ts';
import { API_KEY } from '../config-schema.ts';
import { AppError, errorMessage } from '../errors.ts';
import type { Logger } from '../log.ts';
import { watchFiles } from './watch-files.ts';
import type { FileWatch } from './watch-files.ts';

/** Hex digits of a key's name: enough that no two keys share one. */
const NAME_DIGITS = 12;

interface KnownKey {
  readonly digest: Buffer;
  readonly name: string;
}

/** Holds digests under a secret of this process only, so that neither a dump nor a name tells a key. */
export class ApiKeys {
  readonly #secret = randomBytes(32);
  readonly #fixed: readonly KnownKey[];
  #known: readonly KnownKey[];
  readonly #watch: FileWatch | null = null;

  /** @throws AppError `startup` when the file cannot be read or holds no key */
  constructor({ api_keys: keys, api_keys_file: file }: Config, logger: Logger) {
    this.#fixed = keys.map((key) => this.#learn(key));
    this.#known = this.#fixed;
    if (file === null) return;
    this.#watch = watchFiles([file], () => {
      this.#reload(file, logger);
    });
    try {
      this.#load(file);
    } catch (error) {
      this.#watch.close();
      throw error;
    }
  }

  /** Whether clients need a key at all. */
  get areRequired(): boolean {
    return this.#known.length > 0;
  }

  /** A short name for the key, the same while the process lives; null for an unknown key. Takes as long for any key. */
  nameOf(key: string): string | null {
    const digest = this.#digest(key);
    let name: string | null = null;
    for (const known of this.#known) if (timingSafeEqual(known.digest, digest)) ({ name } = known);
    return name;
  }

  /** Watches the file no longer. */
  close(): void {
    this.#watch?.close();
  }

  #load(file: string): void {
    this.#known = [...this.#fixed, ...readKeyFile(file).map((key) => this.#learn(key))];
  }

  #reload(file: string, logger: Logger): void {
    try {
      this.#load(file);
      logger.info({ file, keys: this.#known.length }, 'API keys read again');
    } catch (error) {
      logger.error({ file, reason: errorMessage(error) }, 'API keys stay as they were');
    }
  }

  #learn(key: string): KnownKey {
    const digest = this.#digest(key);
    return { digest, name: digest.toString('hex').slice(0, NAME_DIGITS) };
  }

  #digest(key: string): Buffer {
    return createHmac('sha256', this.#secret).update(key).digest();
  }
}

/** One key a line; blank lines and lines that begin with `#` say nothing. */
function readKeyFile(file: string): string[] {
  const refuse = (reason: string, cause?: unknown) =>
    new AppError('startup', `api_keys_file ${file}: ${reason}`, { param: 'api_keys_file', cause });
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw refuse(errorMessage(error), error);
  }
  const keys: string[] = [];
  for (const [i, raw] of text
    .replace(/^\uFEFF/, '')
    .split(/\r?\n/)
    .entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    if (!API_KEY.test(line))
      throw refuse(`expected a key of visible ASCII characters without commas in line ${i + 1}`);
    keys.push(line);
  }
  // Without this, emptying the file would open the server to all.
  if (keys.length === 0) throw refuse('expected at least one key, got none');
  return keys;
}
