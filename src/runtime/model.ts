/** A loaded model: its session, embedding table, rotary angles and the shape of its cache. */
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import type { Architecture } from '../graph/architecture.ts';
import { compileModel } from '../graph/compile.ts';
import { EmbeddingTable } from '../graph/embedding.ts';
import { HEAD_PATTERN_FOLDER, readHeadPattern } from '../graph/head-pattern.ts';
import type { Precision } from '../graph/linear.ts';
import { RopeTable, ropeFrequencies } from '../graph/rope.ts';
import { ModelSession } from '../graph/session.ts';
import type { KvShape } from '../kv/sequence-cache.ts';
import type { ModelShape } from '../policies/index.ts';
import type { ModelInfo } from './protocol.ts';

export interface LoadOptions {
  readonly modelDir: string;
  readonly precision: Precision;
  /** Threads of the arithmetic. */
  readonly threads: number;
  readonly cacheDir: string;
  /** Folder of the DuoAttention pattern; null or absent = the model's own, if it has one. */
  readonly headPattern?: string | null;
  readonly onProgress?: (message: string) => void;
}

/** @throws AppError `startup` for a pattern that does not fit, or that was named and is not there */
function readGates(options: LoadOptions, architecture: Architecture): ModelShape['gates'] {
  const { modelDir, headPattern = null } = options;
  const pattern = readHeadPattern(headPattern ?? join(modelDir, HEAD_PATTERN_FOLDER), architecture);
  if (pattern === null && headPattern !== null)
    throw new AppError('startup', `expected a DuoAttention pattern in ${headPattern}, got none`);
  return pattern?.gates ?? null;
}

export class Model {
  readonly architecture: Architecture;
  readonly session: ModelSession;
  readonly embedding: EmbeddingTable;
  readonly rope: RopeTable;
  readonly kvShape: KvShape;
  readonly info: ModelInfo;

  private constructor(
    architecture: Architecture,
    session: ModelSession,
    embedding: EmbeddingTable,
    rope: RopeTable,
    gates: ModelShape['gates'],
  ) {
    const { config, layers } = architecture;
    this.architecture = architecture;
    this.session = session;
    this.embedding = embedding;
    this.rope = rope;
    this.kvShape = layers.map(({ attention }) => ({
      kvHeads: attention?.kvHeads ?? 0,
      headDim: config.headDim,
    }));
    const shape = {
      layers: layers.map(({ attention, mlpWidth }) => ({
        queryHeads: attention?.queryHeads ?? 0,
        kvHeads: attention?.kvHeads ?? 0,
        hasMlp: mlpWidth !== null,
      })),
      gates,
    };
    this.info = { contextLength: config.contextLength, vocabSize: config.vocabSize, shape };
  }

  /** @throws AppError `startup` */
  static async load(options: LoadOptions): Promise<Model> {
    const compiled = await compileModel(options.modelDir, options);
    const { config } = compiled.architecture;
    // First, since an unsupported rope type or pattern should not wait for the weights to be loaded.
    const rope = new RopeTable(ropeFrequencies(config.rope, config.headDim));
    const gates = readGates(options, compiled.architecture);
    const session = await ModelSession.create(compiled, options.threads);
    const embedding = new EmbeddingTable(compiled.dir, config, options.precision);
    return new Model(compiled.architecture, session, embedding, rope, gates);
  }

  get numLayers(): number {
    return this.architecture.layers.length;
  }

  async close(): Promise<void> {
    this.embedding.close();
    await this.session.close();
  }
}
