/** Images that requests name: inside them or, where the configuration allows a host, fetched. */
import type { Config } from '../../config.ts';
import { checkDataUrl } from './data-url.ts';
import { fetchImage } from './fetch-image.ts';
import type { FetchRules, Image } from './fetch-image.ts';
import { checkRemoteUrl } from './image-url.ts';

const TIMEOUT_MS = 10_000;

export class ImageSource {
  readonly #rules: FetchRules;

  /** @param overrides for tests */
  constructor({ images, limits }: Config, overrides: Partial<FetchRules> = {}) {
    this.#rules = {
      allowedHosts: images.allowed_hosts,
      limitBytes: limits.image_bytes,
      timeoutMs: TIMEOUT_MS,
      ...overrides,
    };
  }

  /**
   * Refuses what could never be read, without a connection.
   * @param param path of the field that holds the URL, such as `messages[0].content[1].image_url.url`
   * @throws AppError `unsupported_value`, `invalid_request`
   */
  check(url: string, param: string): void {
    if (isData(url)) checkDataUrl(url, this.#rules.limitBytes, param);
    else checkRemoteUrl(url, this.#rules, param);
  }

  /** @throws AppError `unsupported_value`, `invalid_request`; the signal's reason when that aborts */
  async read(url: string, param: string, signal?: AbortSignal): Promise<Image> {
    if (!isData(url)) return fetchImage(url, this.#rules, param, signal);
    const { type, base64 } = checkDataUrl(url, this.#rules.limitBytes, param);
    return { type, bytes: Buffer.from(base64, 'base64') };
  }
}

function isData(url: string): boolean {
  return /^data:/i.test(url);
}
