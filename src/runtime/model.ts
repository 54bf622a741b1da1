/** A loaded model: its session, embedding table, rotary angles and the shape of its cache. */
import type { Architecture } from '../graph/architecture.ts';
import { compileModel } from '../graph/compile.ts';
import { EmbeddingTable } from '../graph/embedding.ts';
import type { Precision } from '../graph/linear.ts';
import { RopeTable, ropeFrequencies } from '../graph/rope.ts';
import { ModelSession } from '../graph/session.ts';
import type { KvShape } from '../kv/sequence-cache.ts';
import type { ModelShape } from '../policies/index.ts';
import { modelInfo, readGates } from './model-info.ts';
import type { PatternOptions } from './model-info.ts';
import type { ModelInfo } from './protocol.ts';

export interface LoadOptions extends PatternOptions {
  readonly precision: Precision;
  /** Threads of the arithmetic. */
  readonly threads: number;
  readonly cacheDir: string;
  readonly onProgress?: (message: string) => void;
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
    this.info = modelInfo(architecture, gates);
    this.architecture = architecture;
    this.session = session;
    this.embedding = embedding;
    this.rope = rope;
    this.kvShape = layers.map(({ attention }) => ({
      kvHeads: attention?.kvHeads ?? 0,
      headDim: config.headDim,
    }));
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
