/** Shapes come from the tensors: pruned checkpoints load as they are, and one that does not fit is named. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { resolveArchitecture } from '../../src/graph/architecture.ts';
import type { Architecture } from '../../src/graph/architecture.ts';
import { readModelConfig } from '../../src/graph/model-config.ts';
import { Checkpoint } from '../../src/graph/safetensors.ts';
import { startupMessage, tinyModel, tinyShapes } from './checkpoint-files.ts';

function resolve(dir: string): Architecture {
  const config = readModelConfig(dir);
  const checkpoint = new Checkpoint(dir);
  try {
    return resolveArchitecture(checkpoint, config);
  } finally {
    checkpoint.close();
  }
}

/** Tiny Llama with changed tensors: null takes one away, a name with a dot in front belongs to layer 1. */
function changed(changes: Readonly<Record<string, number[] | null>>, config: object = {}): string {
  const named = Object.entries(changes).map(([name, shape]): [string, number[] | null] => [
    name.startsWith('.') ? `model.layers.1${name}` : name,
    shape,
  ]);
  const shapes = Object.entries({ ...tinyShapes(), ...Object.fromEntries(named) });
  const present = shapes.filter((entry): entry is [string, number[]] => entry[1] !== null);
  return tinyModel(config, Object.fromEntries(present));
}

const message = (dir: string): string => startupMessage(() => resolve(dir));
const parts = (dir: string): unknown[] =>
  resolve(dir).layers.map(({ attention, mlpWidth }) => [attention?.queryHeads, attention?.kvHeads, mlpWidth]);

const NO_ATTENTION = {
  '.self_attn.q_proj.weight': null,
  '.self_attn.k_proj.weight': null,
  '.self_attn.v_proj.weight': null,
  '.self_attn.o_proj.weight': null,
  '.input_layernorm.weight': null,
};
const NO_MLP = {
  '.mlp.gate_proj.weight': null,
  '.mlp.up_proj.weight': null,
  '.mlp.down_proj.weight': null,
  '.post_attention_layernorm.weight': null,
};

describe('shapes', () => {
  it('are read layer by layer', () => {
    expect(parts(tinyModel())).toEqual([
      [4, 2, 24],
      [4, 2, 24],
    ]);
    const pruned = {
      '.self_attn.q_proj.weight': [24, 16],
      '.self_attn.k_proj.weight': [8, 16],
      '.self_attn.v_proj.weight': [8, 16],
      '.self_attn.o_proj.weight': [16, 24],
      '.mlp.gate_proj.weight': [5, 16],
      '.mlp.up_proj.weight': [5, 16],
      '.mlp.down_proj.weight': [16, 5],
    };
    expect(parts(changed(pruned))[1]).toEqual([3, 1, 5]);
  });

  it('are null for an absent attention or MLP', () => {
    expect(parts(changed(NO_ATTENTION))[1]).toEqual([undefined, undefined, 24]);
    expect(parts(changed(NO_MLP))[1]).toEqual([4, 2, null]);
    expect(parts(changed({ ...NO_ATTENTION, ...NO_MLP }))[1]).toEqual([undefined, undefined, null]);
  });

  it('are null for what LLM-Drop left out, whatever the tensors are', () => {
    const config = { drop_attn_list: [1], drop_mlp_list: [true, false] };
    const dir = changed({ '.self_attn.q_proj.weight': [3, 3] }, config);
    expect(parts(dir)).toEqual([
      [4, 2, null],
      [undefined, undefined, 24],
    ]);
  });

  it('of the pruned fixtures are those that the reference saw', () => {
    const arch = join(import.meta.dirname, '../fixtures/arch');
    expect(parts(join(arch, 'llama-pruned-shapes'))).toEqual([
      [4, 2, 160],
      [2, 1, 96],
      [undefined, undefined, 128],
      [4, 2, null],
      [2, 2, 72],
    ]);
  });
});

describe('a tensor that does not fit is named', () => {
  const cases: [tensor: string, shape: number[], expected: string][] = [
    ['model.embed_tokens.weight', [21, 16], 'expected shape [20, 16], got [21, 16]'],
    ['model.norm.weight', [15], 'expected shape [16], got [15]'],
    ['lm_head.weight', [20, 16, 1], 'expected shape [20, 16], got [20, 16, 1]'],
    ['model.layers.0.input_layernorm.weight', [8], 'expected shape [16], got [8]'],
    ['model.layers.0.post_attention_layernorm.weight', [8], 'expected shape [16], got [8]'],
    ['model.layers.1.self_attn.q_proj.weight', [32, 15], 'expected shape [any, 16], got [32, 15]'],
    ['model.layers.1.self_attn.q_proj.weight', [30, 16], 'expected rows in whole heads of 8, got 30'],
    ['model.layers.1.self_attn.q_proj.weight', [0, 16], 'expected rows in whole heads of 8, got 0'],
    ['model.layers.1.self_attn.q_proj.weight', [24, 16], '3 query heads do not divide over 2 KV heads'],
    ['model.layers.1.self_attn.k_proj.weight', [20, 16], 'expected rows in whole heads of 8, got 20'],
    ['model.layers.1.self_attn.v_proj.weight', [8, 16], 'expected shape [16, 16], got [8, 16]'],
    ['model.layers.1.self_attn.o_proj.weight', [16, 24], 'expected shape [16, 32], got [16, 24]'],
    ['model.layers.1.mlp.gate_proj.weight', [24, 17], 'expected shape [any, 16], got [24, 17]'],
    ['model.layers.1.mlp.up_proj.weight', [23, 16], 'expected shape [24, 16], got [23, 16]'],
    ['model.layers.1.mlp.down_proj.weight', [24, 16], 'expected shape [16, 24], got [24, 16]'],
  ];
  it.each(cases)('%s %j', (tensor, shape, expected) => {
    expect(message(changed({ [tensor]: shape }))).toBe(`tensor ${tensor}: ${expected}`);
  });

  it('when the config has an odd head dimension', () => {
    expect(message(tinyModel({ head_dim: 7 }))).toContain('head_dim expected an even number, got 7');
  });
});

describe('half of a part is damage', () => {
  const needed = [
    '.self_attn.k_proj',
    '.self_attn.v_proj',
    '.self_attn.o_proj',
    '.mlp.up_proj',
    '.mlp.down_proj',
  ];
  it.each([...needed, '.input_layernorm', '.post_attention_layernorm'])('without %s', (name) => {
    expect(message(changed({ [`${name}.weight`]: null }))).toBe(
      `weights have no tensor model.layers.1${name}.weight`,
    );
  });

  it('without q_proj or gate_proj, whose absence would mean the whole part', () => {
    expect(message(changed({ '.self_attn.q_proj.weight': null }))).toBe(
      'layer 1 is incomplete: model.layers.1.self_attn.k_proj.weight is there, its siblings are not',
    );
    expect(message(changed({ '.mlp.gate_proj.weight': null }))).toBe(
      'layer 1 is incomplete: model.layers.1.mlp.up_proj.weight is there, its siblings are not',
    );
  });

  it.each(['model.embed_tokens.weight', 'model.norm.weight', 'lm_head.weight'])('without %s', (name) => {
    expect(message(changed({ [name]: null }))).toBe(`weights have no tensor ${name}`);
  });

  it('unless the head is tied to the embedding', () => {
    expect(resolve(changed({ 'lm_head.weight': null }, { tie_word_embeddings: true })).layers).toHaveLength(
      2,
    );
  });
});

describe('biases and head norms', () => {
  it.each(['q_proj', 'k_proj', 'v_proj', 'o_proj'])('%s.bias is an error unless announced', (name) => {
    const bias = `.self_attn.${name}.bias`;
    const size = { q_proj: 32, k_proj: 16, v_proj: 16, o_proj: 16 }[name]!;
    expect(message(changed({ [bias]: [size] }))).toBe(
      `tensor model.layers.1${bias} is there, but config.json says that there is none`,
    );
  });

  it.each(['gate_proj', 'up_proj', 'down_proj'])('%s.bias is an error unless announced', (name) => {
    expect(message(changed({ [`.mlp.${name}.bias`]: [24] }))).toContain(`mlp.${name}.bias is there, but`);
  });

  it('are needed where they are announced, in the size of their projection', () => {
    expect(message(tinyModel({ attention_bias: true }))).toBe(
      'weights have no tensor model.layers.0.self_attn.q_proj.bias',
    );
    expect(message(tinyModel({ mlp_bias: true }))).toBe(
      'weights have no tensor model.layers.0.mlp.gate_proj.bias',
    );
    const wrong = { 'model.layers.0.self_attn.q_proj.bias': [16] };
    expect(message(changed(wrong, { attention_bias: true }))).toBe(
      'tensor model.layers.0.self_attn.q_proj.bias: expected shape [32], got [16]',
    );
  });

  it('belong to families: Qwen2 has query, key and value biases, Qwen3 norms over heads', () => {
    expect(message(tinyModel({ model_type: 'qwen2' }))).toContain(
      'no tensor model.layers.0.self_attn.q_proj.bias',
    );
    expect(message(tinyModel({ model_type: 'qwen3' }))).toContain(
      'no tensor model.layers.0.self_attn.q_norm.weight',
    );
    const norms = { q_norm: [8], k_norm: [16] };
    const entries = [0, 1].flatMap((layer) =>
      Object.entries(norms).map(([name, shape]) => [`model.layers.${layer}.self_attn.${name}.weight`, shape]),
    );
    expect(
      message(changed(Object.fromEntries(entries) as Record<string, number[]>, { model_type: 'qwen3' })),
    ).toBe('tensor model.layers.0.self_attn.k_norm.weight: expected shape [8], got [16]');
  });
});
