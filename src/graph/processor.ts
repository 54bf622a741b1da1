/** What the arithmetic must know of the processor. */
import { readFileSync } from 'node:fs';

/**
 * True where the fast u8 x s8 product may saturate: x86 without VNNI, or where we cannot tell. onnxruntime then has a
 * slower exact one, which costs memory too.
 */
export function mayProductsSaturate(): boolean {
  if (process.arch !== 'x64') return false;
  try {
    return !/^flags\s*:.*\bavx(512)?_vnni\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
  } catch {
    return true;
  }
}
