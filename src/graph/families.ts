/** What differs between model families, as data: a new Llama-like family is a new row. */

export interface Family {
  /** Query, key and value projections carry biases. */
  readonly qkvBias: 'always' | 'never' | 'attention_bias';
  readonly outputBias: 'never' | 'attention_bias';
  readonly mlpBias: 'never' | 'mlp_bias';
  /** RMSNorm over each query and key head before RoPE. */
  readonly headNorm: boolean;
  /** Whether the embedding is the output head where the config does not say. */
  readonly tiedEmbeddings: boolean;
  /** Which layers see only a window: none, all when the config has one, or those from `max_window_layers` on. */
  readonly slidingWindow: 'never' | 'all-layers' | 'upper-layers';
}

const llama: Family = {
  qkvBias: 'attention_bias',
  outputBias: 'attention_bias',
  mlpBias: 'mlp_bias',
  headNorm: false,
  tiedEmbeddings: false,
  slidingWindow: 'never',
};

/** By `model_type` of config.json. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  llama,
  mistral: { ...llama, qkvBias: 'never', outputBias: 'never', mlpBias: 'never', slidingWindow: 'all-layers' },
  qwen2: {
    ...llama,
    qkvBias: 'always',
    outputBias: 'never',
    mlpBias: 'never',
    slidingWindow: 'upper-layers',
  },
  qwen3: { ...llama, mlpBias: 'never', headNorm: true, slidingWindow: 'upper-layers' },
  smollm3: { ...llama, tiedEmbeddings: true, slidingWindow: 'upper-layers' },
};
