/** Who may call: holds the keys and the rules for web pages, for HTTP and WebSocket upgrades alike. */
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import { ApiKeys } from './api-keys.ts';
import { authenticate, invalidKey } from './auth.ts';
import type { Client, CredentialHeaders } from './auth.ts';
import { Origins } from './origins.ts';
import type { CallerHeaders } from './origins.ts';

export class Gate {
  readonly keys: ApiKeys;
  readonly origins: Origins;

  /** @throws AppError `startup` for a key file that cannot be used */
  constructor(config: Config, logger: Logger) {
    this.keys = new ApiKeys(config, logger);
    this.origins = new Origins(config, this.keys.areRequired);
  }

  /**
   * Whether a WebSocket may be opened; takes a request's headers as Node gives them.
   * @throws AppError `host_not_allowed`, `origin_not_allowed`, `invalid_api_key`
   */
  admitUpgrade(headers: CredentialHeaders & CallerHeaders): Client {
    this.origins.checkUpgrade(headers);
    const client = authenticate(this.keys, headers);
    if (client === null) throw invalidKey();
    return client;
  }

  /** Watches files no longer. */
  close(): void {
    this.keys.close();
  }
}
