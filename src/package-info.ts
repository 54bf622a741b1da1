/** Where the package lies, and what it says of itself. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';

/** At the same distance from the source and from what is built of it. */
export const PACKAGE_ROOT = join(import.meta.dirname, '..');

const packageSchema = z.object({ version: z.string(), description: z.string() });

export function packageInfo(): z.infer<typeof packageSchema> {
  return packageSchema.parse(JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')));
}
