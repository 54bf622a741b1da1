/** config.json: what every family and spelling means, and which configs are refused by file and key. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FAMILIES } from '../../src/graph/families.ts';
import { readModelConfig } from '../../src/graph/model-config.ts';
import type { ModelConfig } from '../../src/graph/model-config.ts';
import { makeDir, startupMessage, tempDir, TINY } from './checkpoint-files.ts';

/** The tiny config with changes; `undefined` takes a key away. */
function read(changes: Readonly<Record<string, unknown>>): ModelConfig {
  return readModelConfig(makeDir({ 'config.json': { ...TINY, ...changes } }));
}

const windows = (config: ModelConfig): (number | null)[] => config.layers.map((layer) => layer.window);

describe('defaults', () => {
  it('are those of the formats that leave keys out', () => {
    expect(read({ num_key_value_heads: undefined, head_dim: null })).toMatchObject({
      kvHeads: 4,
      headDim: 4,
      normEpsilon: 1e-6,
      tiedEmbeddings: false,
      attentionBias: false,
      mlpBias: false,
      rope: { ropeType: 'default', theta: 10_000, original_max_position_embeddings: 64 },
    });
  });

  it('yield to what the file says', () => {
    const said = { rms_norm_eps: 1e-3, tie_word_embeddings: true, attention_bias: true, mlp_bias: true };
    expect(read({ ...said, rope_theta: 5 })).toMatchObject({
      kvHeads: 2,
      headDim: 8,
      normEpsilon: 1e-3,
      tiedEmbeddings: true,
      attentionBias: true,
      mlpBias: true,
      rope: { theta: 5 },
    });
  });

  it('are not needed by any checkpoint of the fixtures', () => {
    const arch = join(import.meta.dirname, '../fixtures/arch');
    for (const name of readdirSync(arch)) {
      const raw = JSON.parse(readFileSync(join(arch, name, 'config.json'), 'utf8')) as Record<
        string,
        unknown
      >;
      const config = readModelConfig(join(arch, name));
      expect(config.family).toBe(FAMILIES[raw['model_type'] as string]);
      expect(config.layers).toHaveLength(raw['num_hidden_layers'] as number);
    }
  });
});

describe('rope spellings', () => {
  const old = { rope_theta: 500, rope_scaling: { type: 'linear', factor: 4 } };
  const middle = { rope_theta: 500, rope_scaling: { rope_type: 'linear', factor: 4 } };
  const current = { rope_parameters: { rope_type: 'linear', factor: 4, rope_theta: 500 } };
  it.each([old, middle, current])('%j', (spelling) => {
    expect(read(spelling).rope).toMatchObject({ ropeType: 'linear', theta: 500, factor: 4 });
  });

  it('takes the original context from the scaling, else from the model', () => {
    const scaling = { rope_type: 'yarn', factor: 4 };
    expect(read({ rope_scaling: scaling }).rope.original_max_position_embeddings).toBe(64);
    const own = { ...scaling, original_max_position_embeddings: 16 };
    expect(read({ rope_scaling: own }).rope.original_max_position_embeddings).toBe(16);
  });

  it('marks the layers without rope', () => {
    const rope = (changes: object): boolean[] => read({ ...changes }).layers.map((layer) => layer.rope);
    expect(rope({ no_rope_layers: [1, 0] })).toEqual([true, false]);
    expect(rope({ no_rope_layers: null })).toEqual([true, true]);
  });
});

describe('sliding window', () => {
  it('never acts in Llama and in all layers of Mistral', () => {
    expect(windows(read({ sliding_window: 8 }))).toEqual([null, null]);
    expect(windows(read({ model_type: 'mistral', sliding_window: 8 }))).toEqual([8, 8]);
    expect(windows(read({ model_type: 'mistral', sliding_window: null }))).toEqual([null, null]);
    expect(windows(read({ model_type: 'mistral' }))).toEqual([null, null]);
  });

  it.each(['qwen2', 'qwen3'])('acts in %s only when switched on, from max_window_layers on', (family) => {
    const base = { model_type: family, sliding_window: 8, max_window_layers: 1 };
    expect(windows(read({ ...base, use_sliding_window: true }))).toEqual([null, 8]);
    expect(windows(read({ ...base, use_sliding_window: false }))).toEqual([null, null]);
    expect(windows(read(base))).toEqual([null, null]);
  });

  it('follows layer_types where there are any, unless it is switched off', () => {
    const base = {
      model_type: 'qwen3',
      sliding_window: 8,
      max_window_layers: 2,
      layer_types: ['sliding_attention', 'full_attention'],
    };
    expect(windows(read({ ...base, use_sliding_window: true }))).toEqual([8, null]);
    expect(windows(read({ ...base, use_sliding_window: false }))).toEqual([null, null]);
  });
});

describe('layers that LLM-Drop left out', () => {
  const drops = (changes: object): boolean[][] =>
    read({ ...changes, num_hidden_layers: 3 }).layers.map((l) => [l.dropAttention, l.dropMlp]);

  it('are indices in any order, or one boolean a layer', () => {
    const expected = [
      [true, false],
      [false, false],
      [true, true],
    ];
    expect(drops({ drop_attn_list: [2, 0], drop_mlp_list: [2] })).toEqual(expected);
    const booleans = { drop_attn_list: [true, false, true], drop_mlp_list: [false, false, true] };
    expect(drops(booleans)).toEqual(expected);
  });

  it('are none for null, nothing and empty lists', () => {
    for (const list of [null, undefined, []])
      expect(drops({ drop_attn_list: list }).flat()).not.toContain(true);
  });
});

describe('refused configs name the file and the key', () => {
  const cases: [key: string, changes: Record<string, unknown>][] = [
    ['model_type', { model_type: 'gpt2' }],
    ['model_type', { model_type: undefined }],
    ['model_type', { model_type: 7 }],
    ['model_type', { model_type: 'constructor' }],
    ['vocab_size', { vocab_size: 0 }],
    ['vocab_size', { vocab_size: undefined }],
    ['hidden_size', { hidden_size: -1 }],
    ['hidden_size', { hidden_size: 16.5 }],
    ['intermediate_size', { intermediate_size: '24' }],
    ['num_hidden_layers', { num_hidden_layers: null }],
    ['num_attention_heads', { num_attention_heads: 0 }],
    ['num_key_value_heads', { num_key_value_heads: 0 }],
    ['head_dim', { head_dim: 'wide' }],
    ['max_position_embeddings', { max_position_embeddings: undefined }],
    ['rms_norm_eps', { rms_norm_eps: 0 }],
    ['hidden_act', { hidden_act: 'gelu' }],
    ['tie_word_embeddings', { tie_word_embeddings: 'yes' }],
    ['attention_bias', { attention_bias: 1 }],
    ['rope_theta', { rope_theta: -5 }],
    ['rope_scaling.factor', { rope_scaling: { rope_type: 'linear', factor: 0 } }],
    ['rope_parameters.rope_type', { rope_parameters: { rope_type: 1 } }],
    ['sliding_window', { sliding_window: 0 }],
    ['layer_types.1', { layer_types: ['full_attention', 'chunked_attention'] }],
    ['layer_types', { layer_types: ['full_attention'] }],
    ['no_rope_layers', { no_rope_layers: [1, 1, 0] }],
    ['drop_attn_list', { drop_attn_list: [2] }],
    ['drop_attn_list', { drop_attn_list: [true] }],
    ['drop_mlp_list', { drop_mlp_list: [0, true] }],
    ['drop_mlp_list', { drop_mlp_list: [-1] }],
  ];
  it.each(cases)('%s: %j', (key, changes) => {
    const dir = makeDir({ 'config.json': { ...TINY, ...changes } });
    expect(startupMessage(() => readModelConfig(dir))).toContain(`${join(dir, 'config.json')}: ${key}`);
  });

  it('says which families there are', () => {
    const dir = makeDir({ 'config.json': { ...TINY, model_type: 'gpt2' } });
    expect(startupMessage(() => readModelConfig(dir))).toContain(
      'expected one of llama, mistral, qwen2, qwen3, smollm3, got "gpt2"',
    );
  });

  it('tells a missing folder, a missing file and broken JSON apart', () => {
    const dir = tempDir();
    const file = join(dir, 'config.json');
    expect(startupMessage(() => readModelConfig(join(dir, 'none')))).toContain('does not exist');
    expect(startupMessage(() => readModelConfig(dir))).toContain(`cannot read ${file}`);
    writeFileSync(file, '{"model_type": ');
    expect(startupMessage(() => readModelConfig(dir))).toContain(`${file} is not valid JSON`);
    expect(startupMessage(() => readModelConfig(file))).toContain('is not a folder');
    writeFileSync(file, '[]');
    expect(startupMessage(() => readModelConfig(dir))).toContain(`${file}: model_type`);
  });
});
