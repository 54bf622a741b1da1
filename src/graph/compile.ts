/** Turns a checkpoint into a graph on disk, once: the result lies in the cache folder under a key of its content. */
import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import * as z from 'zod';
import { AppError, errorMessage } from '../errors.ts';
import { type Architecture, resolveArchitecture } from './architecture.ts';
import { EMBEDDING_FILES, writeEmbedding } from './embedding.ts';
import { linearsFor, type Precision } from './linear.ts';
import { readModelConfig } from './model-config.ts';
import { buildModelGraph } from './model-graph.ts';
import { Checkpoint, weightFiles } from './safetensors.ts';
import { WeightFile } from './weight-file.ts';

/** Raise it when the graph or the file layout changes: old cache entries are then left alone and made anew. */
const FORMAT = 22;
const MANIFEST = 'manifest.json';
const GRAPH_FILE = 'model.onnx';
const WEIGHTS_FILE = 'weights.bin';
/** Half-made folders of crashed processes are removed after this time. */
const ABANDONED_MS = 24 * 3600 * 1000;

const manifestSchema = z.object({ files: z.record(z.string(), z.int().nonnegative()) });

export interface CompiledModel {
  readonly architecture: Architecture;
  readonly precision: Precision;
  /** Folder with the graph, its weights and the embedding table. */
  readonly dir: string;
  readonly graphFile: string;
}

export interface CompileOptions {
  readonly precision: Precision;
  readonly cacheDir: string;
  /** Called with a short line of text while a checkpoint is read or converted. */
  readonly onProgress?: (message: string) => void;
}

async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: 4 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** Content hash of a file; remembered by path, size and time stamps, so that a start does not read all weights. */
async function contentHash(file: string, cacheDir: string): Promise<string> {
  const { size, mtimeNs, ctimeNs, ino } = statSync(file, { bigint: true });
  const identity = [file, size, mtimeNs, ctimeNs, ino].join('\n');
  const memo = join(cacheDir, 'digests', createHash('sha256').update(identity).digest('hex'));
  const known = existsSync(memo) ? readFileSync(memo, 'utf8') : '';
  if (/^[0-9a-f]{64}$/.test(known)) return known;
  const digest = await hashFile(file);
  const temporary = `${memo}.${process.pid}`;
  try {
    mkdirSync(join(cacheDir, 'digests'), { recursive: true });
    writeFileSync(temporary, digest);
    renameSync(temporary, memo);
  } catch (error) {
    throw new AppError('startup', `cannot write to the cache folder ${cacheDir}: ${errorMessage(error)}`);
  }
  return digest;
}

async function cacheKey(modelDir: string, options: CompileOptions): Promise<string> {
  const hash = createHash('sha256').update(`${FORMAT}\n${options.precision}\n`);
  hash.update(readFileSync(join(modelDir, 'config.json')));
  for (const file of weightFiles(modelDir)) hash.update(await contentHash(file, options.cacheDir));
  return hash.digest('hex').slice(0, 32);
}

/** True if every file is there with the size that was written. */
function isComplete(dir: string): boolean {
  try {
    const { files } = manifestSchema.parse(JSON.parse(readFileSync(join(dir, MANIFEST), 'utf8')));
    return Object.entries(files).every(([name, bytes]) => statSync(join(dir, name)).size === bytes);
  } catch {
    return false;
  }
}

function removeAbandoned(graphsDir: string): void {
  for (const name of readdirSync(graphsDir)) {
    const dir = join(graphsDir, name);
    const age = Date.now() - (statSync(dir, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (name.includes('.tmp-') && age > ABANDONED_MS) rmSync(dir, { recursive: true, force: true });
  }
}

function writeFiles(
  dir: string,
  checkpoint: Checkpoint,
  architecture: Architecture,
  options: CompileOptions,
): void {
  const file = new WeightFile(join(dir, WEIGHTS_FILE));
  const graph = buildModelGraph(architecture, {
    checkpoint,
    file,
    linears: linearsFor(options.precision, checkpoint, file),
    onLayer: (done, total) =>
      options.onProgress?.(`converting to ${options.precision}: ${Math.round((100 * done) / total)} %`),
  });
  file.close();
  writeFileSync(join(dir, GRAPH_FILE), graph);
  writeEmbedding(dir, checkpoint, architecture, options.precision);
  const names = [GRAPH_FILE, WEIGHTS_FILE, ...EMBEDDING_FILES];
  const files = Object.fromEntries(names.map((name) => [name, statSync(join(dir, name)).size]));
  writeFileSync(join(dir, MANIFEST), JSON.stringify({ format: FORMAT, files }));
}

/** Writes into a folder of our own and renames it: a crash or a second process never leaves a half-made entry. */
function compileInto(
  target: string,
  checkpoint: Checkpoint,
  architecture: Architecture,
  options: CompileOptions,
): void {
  const temporary = `${target}.tmp-${process.pid}-${Date.now()}`;
  try {
    mkdirSync(temporary);
    writeFiles(temporary, checkpoint, architecture, options);
    if (existsSync(target) && !isComplete(target)) rmSync(target, { recursive: true, force: true });
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    if (isComplete(target)) return; // another process was faster
    if (error instanceof AppError) throw error;
    throw new AppError('startup', `cannot write the converted model to ${target}: ${errorMessage(error)}`, {
      cause: error,
    });
  }
}

/** Level by level: Node's own recursive form never returns where a file system (such as /proc) takes no folders. */
function makeFolder(dir: string): void {
  if (existsSync(dir)) return;
  makeFolder(dirname(dir));
  try {
    mkdirSync(dir);
  } catch (error) {
    if (!existsSync(dir)) throw error; // else another process was faster
  }
}

/** A pruned checkpoint may lack whole layers; so does one whose last shard was forgotten. Either way: say it. */
function reportEmptyLayers({ layers }: Architecture, options: CompileOptions): void {
  layers.forEach((layer, index) => {
    const isDropped = layer.dropAttention && layer.dropMlp;
    if (layer.attention !== null || layer.mlpWidth !== null || isDropped) return;
    options.onProgress?.(`layer ${index} of ${layers.length} has no weights and is skipped`);
  });
}

/**
 * The compiled form of a checkpoint folder, from the cache if it is there.
 * @throws AppError `startup`: missing or corrupt files, an unsupported architecture, a cache that cannot be written
 */
export async function compileModel(modelDir: string, options: CompileOptions): Promise<CompiledModel> {
  const config = readModelConfig(modelDir);
  const checkpoint = new Checkpoint(modelDir);
  try {
    const architecture = resolveArchitecture(checkpoint, config);
    reportEmptyLayers(architecture, options);
    const graphsDir = join(options.cacheDir, 'graphs');
    try {
      makeFolder(graphsDir);
    } catch (error) {
      throw new AppError('startup', `cannot create the cache folder ${graphsDir}: ${errorMessage(error)}`);
    }
    const dir = join(graphsDir, await cacheKey(modelDir, options));
    if (!isComplete(dir)) {
      removeAbandoned(graphsDir);
      compileInto(dir, checkpoint, architecture, options);
    }
    return { architecture, precision: options.precision, dir, graphFile: join(dir, GRAPH_FILE) };
  } finally {
    checkpoint.close();
  }
}
