/** Reads config.json of a Hugging Face checkpoint into the few facts that a graph needs. */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { AppError, errorMessage } from '../errors.ts';
import { FAMILIES, type Family } from './families.ts';

const positive = z.int().positive();

const ropeSchema = z.object({
  rope_type: z.string().optional(),
  /** Spelling of older configs. */
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  factor: z.number().positive().optional(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: positive.optional(),
  attention_factor: z.number().positive().nullish(),
  beta_fast: z.number().positive().nullish(),
  beta_slow: z.number().positive().nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  truncate: z.boolean().nullish(),
});

const dropList = z.array(z.union([z.int().nonnegative(), z.boolean()])).nullish();

const configSchema = z.object({
  model_type: z.string(),
  vocab_size: positive,
  hidden_size: positive,
  intermediate_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  num_key_value_heads: positive.nullish(),
  head_dim: positive.nullish(),
  max_position_embeddings: positive,
  rms_norm_eps: z.number().positive().default(1e-6),
  hidden_act: z.string().default('silu'),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  sliding_window: positive.nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.int().nonnegative().nullish(),
  layer_types: z.array(z.enum(['full_attention', 'sliding_attention'])).nullish(),
  no_rope_layers: z.array(z.int()).nullish(),
  drop_attn_list: dropList,
  drop_mlp_list: dropList,
  eos_token_id: z.union([z.int(), z.array(z.int())]).nullish(),
});

type RawConfig = z.infer<typeof configSchema>;

/** Parameters of the rotary embedding; see `rope.ts` for what each type means. */
export type RopeConfig = z.infer<typeof ropeSchema> & { readonly theta: number; readonly ropeType: string };

export interface LayerConfig {
  /** LLM-Drop: this part is skipped even though its weights may be there. */
  readonly dropAttention: boolean;
  readonly dropMlp: boolean;
  readonly rope: boolean;
  /** A query at position i sees keys j with i - window < j <= i; null = all before it. */
  readonly window: number | null;
}

export interface ModelConfig {
  readonly family: Family;
  readonly modelType: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly mlpWidth: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly contextLength: number;
  readonly normEpsilon: number;
  readonly tiedEmbeddings: boolean;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly rope: RopeConfig;
  readonly layers: readonly LayerConfig[];
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError)
      throw new AppError('startup', `${file} is not valid JSON: ${error.message}`);
    throw new AppError('startup', `cannot read ${file}: ${errorMessage(error)}`);
  }
}

/** LLM-Drop spells its lists as layer indices or as one boolean a layer. */
function isDropped(list: RawConfig['drop_attn_list'], layer: number): boolean {
  return list != null && (list[layer] === true || list.includes(layer));
}

function layerWindow(raw: RawConfig, family: Family, layer: number): number | null {
  const window = raw.sliding_window ?? null;
  if (window === null || raw.use_sliding_window === false) return null;
  if (raw.layer_types != null) return raw.layer_types[layer] === 'sliding_attention' ? window : null;
  switch (family.slidingWindow) {
    case 'never':
      return null;
    case 'all-layers':
      return window;
    case 'upper-layers':
      return raw.use_sliding_window === true && layer >= (raw.max_window_layers ?? 0) ? window : null;
  }
}

function checkDropList(raw: RawConfig, key: 'drop_attn_list' | 'drop_mlp_list', file: string): void {
  const list = raw[key] ?? [];
  const wrong = list.find((entry) => typeof entry === 'number' && entry >= raw.num_hidden_layers);
  const mixed = new Set(list.map((entry) => typeof entry)).size > 1;
  const short = typeof list[0] === 'boolean' && list.length !== raw.num_hidden_layers;
  if (wrong !== undefined || mixed || short) {
    throw new AppError(
      'startup',
      `${file}: ${key} expected layer indices below ${raw.num_hidden_layers} or one boolean a layer`,
    );
  }
}

function checkPerLayer(raw: RawConfig, key: 'layer_types' | 'no_rope_layers', file: string): void {
  const count = raw[key]?.length ?? raw.num_hidden_layers;
  if (count !== raw.num_hidden_layers) {
    throw new AppError(
      'startup',
      `${file}: ${key} expected one entry for each of ${raw.num_hidden_layers} layers, got ${count}`,
    );
  }
}

/** @throws AppError `startup` naming the file and what is wrong with it. */
export function readModelConfig(modelDir: string): ModelConfig {
  if (!statSync(modelDir, { throwIfNoEntry: false })?.isDirectory()) {
    throw new AppError('startup', `model folder ${modelDir} does not exist or is not a folder`);
  }
  const file = join(modelDir, 'config.json');
  const json = readJson(file);
  const parsed = configSchema.safeParse(json);
  const modelType = parsed.data?.model_type ?? modelTypeOf(json);
  const family =
    modelType !== undefined && Object.hasOwn(FAMILIES, modelType) ? FAMILIES[modelType] : undefined;
  if (family === undefined) {
    const known = Object.keys(FAMILIES).join(', ');
    throw new AppError(
      'startup',
      `${file}: model_type expected one of ${known}, got ${JSON.stringify(modelType)}`,
    );
  }
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new AppError('startup', `${file}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'invalid'}`);
  }
  const raw = parsed.data;
  if (raw.hidden_act !== 'silu')
    throw new AppError('startup', `${file}: hidden_act expected silu, got ${raw.hidden_act}`);
  checkDropList(raw, 'drop_attn_list', file);
  checkDropList(raw, 'drop_mlp_list', file);
  checkPerLayer(raw, 'layer_types', file);
  checkPerLayer(raw, 'no_rope_layers', file);
  const scaling = raw.rope_parameters ?? raw.rope_scaling ?? {};
  return {
    family,
    modelType: raw.model_type,
    vocabSize: raw.vocab_size,
    hiddenSize: raw.hidden_size,
    mlpWidth: raw.intermediate_size,
    queryHeads: raw.num_attention_heads,
    kvHeads: raw.num_key_value_heads ?? raw.num_attention_heads,
    headDim: raw.head_dim ?? Math.floor(raw.hidden_size / raw.num_attention_heads),
    contextLength: raw.max_position_embeddings,
    normEpsilon: raw.rms_norm_eps,
    tiedEmbeddings: raw.tie_word_embeddings ?? family.tiedEmbeddings,
    attentionBias: raw.attention_bias,
    mlpBias: raw.mlp_bias,
    rope: {
      ...scaling,
      ropeType: scaling.rope_type ?? scaling.type ?? 'default',
      theta: scaling.rope_theta ?? raw.rope_theta ?? 10_000,
      original_max_position_embeddings:
        scaling.original_max_position_embeddings ?? raw.max_position_embeddings,
    },
    layers: Array.from({ length: raw.num_hidden_layers }, (_, layer) => ({
      dropAttention: isDropped(raw.drop_attn_list, layer),
      dropMlp: isDropped(raw.drop_mlp_list, layer),
      rope: raw.no_rope_layers == null || raw.no_rope_layers[layer] !== 0,
      window: layerWindow(raw, family, layer),
    })),
  };
}

function modelTypeOf(json: unknown): string | undefined {
  const parsed = z.object({ model_type: z.string() }).safeParse(json);
  return parsed.data?.model_type;
}
