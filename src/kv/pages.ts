/** Memory of caches: committed and returned in whole pages, since counting anything finer would not be what is resident. */

export const PAGE_BYTES = 4096;

export function wholePages(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
}

/** False, and the size as before, when the system refuses. */
export function tryResize(buffer: ArrayBuffer, bytes: number): boolean {
  try {
    buffer.resize(bytes);
    return true;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}
