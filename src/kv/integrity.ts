/** Compares the pool's count with what is really resident: finds leaks and double frees while they are young. */
import { invariant } from '../errors.ts';
import type { BytePool } from './byte-pool.ts';

/** `caches` = everything alive that draws on the pool: running sequences and the prefix cache. Throws when they disagree. */
export function checkIntegrity(pool: BytePool, ...caches: readonly { readonly bytes: number }[]): void {
  const residentBytes = caches.reduce((sum, cache) => sum + cache.bytes, 0);
  invariant(
    residentBytes === pool.usedBytes,
    `the KV pool counts ${pool.usedBytes} bytes, but ${residentBytes} are held`,
  );
}
