/** Which files of a repository the server needs, and whether a file name may become a path. */
import { z } from 'zod';
import { AppError } from '../errors.ts';
import type { HubFile } from './listing.ts';

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

/** It is parsed in memory; those of the largest models have a few MB. */
const MAX_INDEX_BYTES = 64 * 2 ** 20;

/** Weights in other formats are never read; some of them can run code when loaded. */
const NEVER = /\.(?:bin|gguf|pt|pth|onnx|ckpt|h5|msgpack|pkl)$/i;
const SIDE_FILES = [
  /^config\.json$/,
  /^generation_config\.json$/,
  /^tokenizer[\w-]*\.json$/,
  /^special_tokens_map\.json$/,
  /^chat_template\.\w+$/,
  /^(?:video_)?preprocessor_config\.json$/,
  /^processor_config\.json$/,
  /^duo-attention\//,
];

/** What to download; `index` is set when the names of the weight files are inside it. */
export interface Selection {
  readonly files: readonly HubFile[];
  readonly index: HubFile | null;
}

/**
 * @throws AppError `startup` when a name would leave its folder, or when config or weights are missing.
 */
export function selectFiles(repo: string, all: readonly HubFile[]): Selection {
  for (const { path } of all) assertInside(path);
  const files = all.filter(({ path }) => SIDE_FILES.some((side) => side.test(path)) && !NEVER.test(path));
  for (const { path } of files) assertPlain(path);
  if (!files.some(({ path }) => path === 'config.json')) {
    throw new AppError(
      'startup',
      `expected ${repo} to have config.json, got none: it is no transformers model`,
    );
  }
  // One file before the index, in the order of transformers, when a repository has both.
  const single = all.find(({ path }) => path === SINGLE);
  if (single) return { files: [...files, single], index: null };
  const index = all.find(({ path }) => path === INDEX);
  if (index && index.sizeBytes > MAX_INDEX_BYTES) {
    throw new AppError(
      'startup',
      `expected ${INDEX} of at most ${MAX_INDEX_BYTES} bytes, got ${index.sizeBytes}`,
    );
  }
  if (index) return { files: [...files, index], index };
  throw new AppError('startup', `expected ${repo} to have ${SINGLE} or ${INDEX}, got neither`);
}

const indexFile = z.object({ weight_map: z.record(z.string(), z.string()) });

/** The weight files that an index names, each once. */
export function selectShards(repo: string, all: readonly HubFile[], indexText: string): HubFile[] {
  let json: unknown;
  try {
    json = JSON.parse(indexText);
  } catch (error) {
    throw new AppError('startup', `expected JSON in ${INDEX} of ${repo}, got something else`, {
      cause: error,
    });
  }
  const parsed = indexFile.safeParse(json);
  if (!parsed.success) {
    throw new AppError('startup', `expected a weight_map of file names in ${INDEX} of ${repo}, got none`);
  }
  const byPath = new Map(all.map((file) => [file.path, file]));
  return [...new Set(Object.values(parsed.data.weight_map))].map((path) => {
    assertInside(path);
    assertPlain(path);
    const file = byPath.get(path);
    if (!file || !path.endsWith('.safetensors')) {
      throw new AppError(
        'startup',
        `expected ${INDEX} of ${repo} to name its .safetensors files, got ${path}`,
      );
    }
    return file;
  });
}

/** Git itself cannot hold such names, so a server that lists one is lying: refuse the whole pull. */
function assertInside(path: string): void {
  const segments = path.split('/');
  const unsafe = /\\|\p{Cc}|^[A-Za-z]:/u.test(path) || segments.some((s) => ['', '.', '..'].includes(s));
  if (unsafe) {
    throw new AppError('startup', `expected file names inside the repository, got ${JSON.stringify(path)}`);
  }
}

/** Names that mean the same on every file system: Windows drops dots and spaces at the end of a name. */
function assertPlain(path: string): void {
  if (!path.split('/').every((segment) => /^[\w.+=@ -]*[\w+=@-]$/.test(segment))) {
    throw new AppError(
      'startup',
      `expected file names of letters, digits and .+=@_-, got ${JSON.stringify(path)}`,
    );
  }
}
