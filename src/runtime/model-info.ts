/** What a checkpoint's files say of the model, without loading it. */
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { resolveArchitecture } from '../graph/architecture.ts';
import type { Architecture } from '../graph/architecture.ts';
import { HEAD_PATTERN_FOLDER, readHeadPattern } from '../graph/head-pattern.ts';
import { readModelConfig } from '../graph/model-config.ts';
import { Checkpoint } from '../graph/safetensors.ts';
import type { ModelShape } from '../policies/index.ts';
import type { ModelInfo } from './protocol.ts';

export interface PatternOptions {
  readonly modelDir: string;
  /** Folder of the DuoAttention pattern; null or absent = the model's own, if it has one. */
  readonly headPattern?: string | null;
}

/** @throws AppError `startup` for a pattern that does not fit, or that was named and is not there */
export function readGates(options: PatternOptions, architecture: Architecture): ModelShape['gates'] {
  const { modelDir, headPattern = null } = options;
  const pattern = readHeadPattern(headPattern ?? join(modelDir, HEAD_PATTERN_FOLDER), architecture);
  if (pattern === null && headPattern !== null)
    throw new AppError('startup', `expected a DuoAttention pattern in ${headPattern}, got none`);
  return pattern?.gates ?? null;
}

export function modelInfo({ config, layers }: Architecture, gates: ModelShape['gates']): ModelInfo {
  const shape = {
    layers: layers.map(({ attention, mlpWidth }) => ({
      queryHeads: attention?.queryHeads ?? 0,
      kvHeads: attention?.kvHeads ?? 0,
      hasMlp: mlpWidth !== null,
    })),
    gates,
  };
  return { contextLength: config.contextLength, vocabSize: config.vocabSize, shape };
}

/** What a checkpoint's files say of it, without loading it. @throws AppError `startup` */
export function describeModel(options: PatternOptions): ModelInfo {
  const config = readModelConfig(options.modelDir);
  const checkpoint = new Checkpoint(options.modelDir);
  try {
    const architecture = resolveArchitecture(checkpoint, config);
    return modelInfo(architecture, readGates(options, architecture));
  } finally {
    checkpoint.close();
  }
}
