/**
 * The shapes that a checkpoint really has, layer by layer. Head counts and MLP widths come from the tensors, so
 * structurally pruned checkpoints (LLM-Pruner, FinerCut, LLM-Drop ...) load as they are.
 */
import { AppError } from '../errors.ts';
import type { LayerConfig, ModelConfig } from './model-config.ts';
import type { Checkpoint } from './safetensors.ts';

export interface AttentionShape {
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

interface LayerArchitecture extends LayerConfig {
  /** null = this layer has no attention: the residual passes, nothing is cached. */
  readonly attention: AttentionShape | null;
  /** Width of the MLP; null = none. */
  readonly mlpWidth: number | null;
}

export interface Architecture {
  readonly config: ModelConfig;
  readonly layers: readonly LayerArchitecture[];
}

/** Names of one layer's tensors, without `.weight` / `.bias`. */
export function layerTensors(layer: number) {
  const prefix = `model.layers.${layer}`;
  return {
    attentionNorm: `${prefix}.input_layernorm`,
    query: `${prefix}.self_attn.q_proj`,
    key: `${prefix}.self_attn.k_proj`,
    value: `${prefix}.self_attn.v_proj`,
    output: `${prefix}.self_attn.o_proj`,
    queryNorm: `${prefix}.self_attn.q_norm`,
    keyNorm: `${prefix}.self_attn.k_norm`,
    mlpNorm: `${prefix}.post_attention_layernorm`,
    gate: `${prefix}.mlp.gate_proj`,
    up: `${prefix}.mlp.up_proj`,
    down: `${prefix}.mlp.down_proj`,
  };
}

export const EMBEDDING = 'model.embed_tokens.weight';
export const FINAL_NORM = 'model.norm.weight';

/** The tensor that holds the output head: its own, or the embedding when they are tied. */
export function headTensor(config: ModelConfig): string {
  return config.tiedEmbeddings ? EMBEDDING : 'lm_head.weight';
}

class Resolver {
  readonly #checkpoint: Checkpoint;
  readonly #config: ModelConfig;

  constructor(checkpoint: Checkpoint, config: ModelConfig) {
    this.#checkpoint = checkpoint;
    this.#config = config;
  }

  /** Requires a tensor; `null` in the shape allows any size there. */
  expect(name: string, shape: readonly (number | null)[]): readonly number[] {
    const tensor = this.#checkpoint.find(name);
    if (tensor === undefined) throw new AppError('startup', `weights have no tensor ${name}`);
    const fits =
      tensor.shape.length === shape.length &&
      shape.every((size, i) => size === null || size === tensor.shape[i]);
    if (!fits) {
      const wanted = shape.map((size) => size ?? 'any').join(', ');
      throw new AppError(
        'startup',
        `tensor ${name}: expected shape [${wanted}], got [${tensor.shape.join(', ')}]`,
      );
    }
    return tensor.shape;
  }

  #bias(name: string, rule: 'always' | 'never' | 'attention_bias' | 'mlp_bias', size: number): void {
    const { attentionBias, mlpBias } = this.#config;
    const wanted =
      rule === 'always' || (rule === 'attention_bias' && attentionBias) || (rule === 'mlp_bias' && mlpBias);
    if (wanted) this.expect(`${name}.bias`, [size]);
    else if (this.#checkpoint.find(`${name}.bias`) !== undefined) {
      throw new AppError('startup', `tensor ${name}.bias is there, but config.json says that there is none`);
    }
  }

  attention(layer: number): AttentionShape | null {
    const { family, hiddenSize, headDim } = this.#config;
    const names = layerTensors(layer);
    if (this.#checkpoint.find(`${names.query}.weight`) === undefined) {
      this.#absent(layer, [names.key, names.value, names.output]);
      return null;
    }
    const heads = (name: string): number => {
      const [rows = 0] = this.expect(`${name}.weight`, [null, hiddenSize]);
      if (rows === 0 || rows % headDim !== 0) {
        throw new AppError(
          'startup',
          `tensor ${name}.weight: expected rows in whole heads of ${headDim}, got ${rows}`,
        );
      }
      return rows / headDim;
    };
    const queryHeads = heads(names.query);
    const kvHeads = heads(names.key);
    if (queryHeads % kvHeads !== 0) {
      throw new AppError(
        'startup',
        `tensor ${names.query}.weight: ${queryHeads} query heads do not divide over ${kvHeads} KV heads`,
      );
    }
    this.expect(`${names.value}.weight`, [kvHeads * headDim, hiddenSize]);
    this.expect(`${names.output}.weight`, [hiddenSize, queryHeads * headDim]);
    this.expect(`${names.attentionNorm}.weight`, [hiddenSize]);
    this.#bias(names.query, family.qkvBias, queryHeads * headDim);
    this.#bias(names.key, family.qkvBias, kvHeads * headDim);
    this.#bias(names.value, family.qkvBias, kvHeads * headDim);
    this.#bias(names.output, family.outputBias, hiddenSize);
    if (family.headNorm) {
      this.expect(`${names.queryNorm}.weight`, [headDim]);
      this.expect(`${names.keyNorm}.weight`, [headDim]);
    }
    return { queryHeads, kvHeads, headDim };
  }

  mlpWidth(layer: number): number | null {
    const { family, hiddenSize } = this.#config;
    const names = layerTensors(layer);
    if (this.#checkpoint.find(`${names.gate}.weight`) === undefined) {
      this.#absent(layer, [names.up, names.down]);
      return null;
    }
    const [width = 0] = this.expect(`${names.gate}.weight`, [null, hiddenSize]);
    this.expect(`${names.up}.weight`, [width, hiddenSize]);
    this.expect(`${names.down}.weight`, [hiddenSize, width]);
    this.expect(`${names.mlpNorm}.weight`, [hiddenSize]);
    this.#bias(names.gate, family.mlpBias, width);
    this.#bias(names.up, family.mlpBias, width);
    this.#bias(names.down, family.mlpBias, hiddenSize);
    return width;
  }

  /** A part is absent only as a whole; half of it means that the file is damaged. */
  #absent(layer: number, names: readonly string[]): void {
    const left = names
      .map((name) => `${name}.weight`)
      .find((name) => this.#checkpoint.find(name) !== undefined);
    if (left !== undefined)
      throw new AppError('startup', `layer ${layer} is incomplete: ${left} is there, its siblings are not`);
  }
}

/** @throws AppError `startup` naming the tensor that is missing or does not fit the config. */
export function resolveArchitecture(checkpoint: Checkpoint, config: ModelConfig): Architecture {
  if (config.headDim % 2 !== 0)
    throw new AppError('startup', `config.json: head_dim expected an even number, got ${config.headDim}`);
  const resolver = new Resolver(checkpoint, config);
  resolver.expect(EMBEDDING, [config.vocabSize, config.hiddenSize]);
  resolver.expect(FINAL_NORM, [config.hiddenSize]);
  resolver.expect(headTensor(config), [config.vocabSize, config.hiddenSize]);
  const layers = config.layers.map((layer, index) => ({
    ...layer,
    attention: layer.dropAttention ? null : resolver.attention(index),
    mlpWidth: layer.dropMlp ? null : resolver.mlpWidth(index),
  }));
  return { config, layers };
}
