/** Reading the `pruning` field: what is accepted, and which field each refusal names. */
import { describe, expect, it } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { parsePruning, policyLabel, type Presets } from '../../src/policies/index.ts';
import { create } from './cases.ts';
import { DENSE_SHAPE, PRUNED_SHAPE } from './inputs.ts';

const PRESETS: Presets = {
  balanced: { summary: 'some of both', pruning: { tokens: 'ftp', kv: { policy: 'h2o', keep: 0.25 } } },
  off: { summary: 'nothing', pruning: null },
};

const parse = (value: unknown, model = DENSE_SHAPE) => parsePruning(value, PRESETS, model);

function refusal(value: unknown, model = DENSE_SHAPE): { param: string | null; message: string } {
  try {
    parse(value, model);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    expect(error.errorCode).toBe('invalid_request');
    return { param: error.param, message: error.message };
  }
  throw new Error(`accepted ${JSON.stringify(value)}`);
}

describe('accepted', () => {
  it('nothing, and "none", which says so', () => {
    expect(parse(undefined)).toBeNull();
    expect(parse(null)).toBeNull();
    expect(parse('none')).toEqual({ preset: 'none', families: {} });
    expect(parse({})).toEqual({ preset: null, families: {} });
    expect(parse({ kv: null })).toEqual({ preset: null, families: {} });
  });

  it('presets by name, with what they stand for', () => {
    const own = parse(PRESETS['balanced']?.pruning);
    expect(parse('balanced')).toEqual({ ...own, preset: 'balanced' });
    expect(own?.families.kv).toMatchObject({ policy: 'h2o', options: { keep: 0.25, interval: 128 } });
    expect(parse('off')).toEqual({ preset: 'off', families: {} });
  });

  it('policies by name, and as objects with the rest defaulted', () => {
    expect(parse({ kv: 'tova' })).toEqual(parse({ kv: { policy: 'tova' } }));
    expect(parse({ kv: { policy: 'tova', sink: 2 } })?.families.kv?.options).toEqual({
      sink: 2,
      recent: 1,
      interval: 128,
    });
  });

  it('families together', () => {
    const choice = parse({
      kv: 'duo-attention',
      tokens: 'lazyllm',
      layers: { policy: 'attention-drop', drop: [3] },
    });
    expect(Object.keys(choice?.families ?? {}).sort()).toEqual(['kv', 'layers', 'tokens']);
    expect(policyLabel(choice)).toBe('lazyllm+duo-attention+attention-drop');
    expect(policyLabel(parse('balanced'))).toBe('balanced');
    expect(policyLabel(parse({}))).toBe('none');
    expect(policyLabel(null)).toBe('none');
  });
});

const NAMES = '"duo-attention", "streaming-llm", "h2o"';

const REFUSALS: readonly (readonly [value: unknown, param: string, message: string])[] = [
  // The whole field.
  ['fastest', 'pruning', 'expected one of "none", "balanced", "off", got "fastest"'],
  ['toString', 'pruning', 'expected one of "none", "balanced", "off", got "toString"'],
  [7, 'pruning', "expected a preset's name or an object, got 7"],
  [['lazyllm'], 'pruning', "expected a preset's name or an object, got a list of 1"],
  // Families and policies.
  [{ token: 'lazyllm' }, 'pruning.token', 'expected one of the families "tokens", "kv", "visual", "layers"'],
  [{ policy: 'lazyllm' }, 'pruning.policy', 'expected one of the families'],
  [{ kv: 'h20' }, 'pruning.kv.policy', `expected one of ${NAMES}`],
  [{ kv: 'lazyllm' }, 'pruning.kv.policy', `expected one of ${NAMES}`],
  [{ kv: { policy: 'h20' } }, 'pruning.kv.policy', 'got "h20"'],
  [{ kv: { keep: 0.5 } }, 'pruning.kv.policy', 'got nothing'],
  [{ kv: { policy: 5 } }, 'pruning.kv.policy', 'got 5'],
  [{ kv: 5 }, 'pruning.kv', "expected a policy's name or an object, got 5"],
  [{ kv: ['h2o'] }, 'pruning.kv', "expected a policy's name or an object, got a list of 1"],
  [
    { tokens: 'h2o' },
    'pruning.tokens.policy',
    'expected one of "lazyllm", "spatten", "ftp", "random", got "h2o"',
  ],
  [{ layers: 'yopo' }, 'pruning.layers.policy', 'expected one of "attention-drop", "finercut", "head-mask"'],
  [
    { visual: 'flowcut' },
    'pruning.visual.policy',
    'expected no visual policy (there is none yet), got "flowcut"',
  ],
  // Options: unknown, of the wrong type, out of range.
  [
    { tokens: { policy: 'lazyllm', keep: 0.5 } },
    'pruning.tokens.keep',
    'expected no key "keep" here; valid are "stages", "prefill_only"',
  ],
  [
    { tokens: { policy: 'lazyllm', stages: [{ layer: 1, keep: 0.5, rate: 1 }] } },
    'pruning.tokens.stages[0].rate',
    'expected no key "rate" here; valid are "layer", "after", "keep"',
  ],
  [
    { tokens: { policy: 'lazyllm', stages: [{ keep: 0.5 }] } },
    'pruning.tokens.stages[0].layer',
    'expected layer or after, got neither',
  ],
  [
    {
      tokens: {
        policy: 'lazyllm',
        stages: [
          { after: 0.7, keep: 0.5 },
          { after: 0.3, keep: 0.5 },
        ],
      },
    },
    'pruning.tokens.stages[1].after',
    'expected a share that ends at layer',
  ],
  [
    { tokens: { policy: 'lazyllm', stages: [{ layer: 1, after: 0.5, keep: 0.5 }] } },
    'pruning.tokens.stages[0].layer',
    'expected layer or after, got both',
  ],
  [
    { kv: { policy: 'kvzip', interval: 8 } },
    'pruning.kv.interval',
    'expected no key "interval" here; valid are "keep"',
  ],
  [{ kv: { policy: 'h2o', keep: '0.5' } }, 'pruning.kv.keep', 'expected number, got "0.5"'],
  [{ kv: { policy: 'h2o', keep: 0 } }, 'pruning.kv.keep', 'expected number to be >0, got 0'],
  [{ kv: { policy: 'h2o', keep: 1.5 } }, 'pruning.kv.keep', 'expected number to be <=1, got 1.5'],
  [{ kv: { policy: 'h2o', sink: 2.5 } }, 'pruning.kv.sink', 'expected int, got 2.5'],
  [{ kv: { policy: 'h2o', sink: -1 } }, 'pruning.kv.sink', '>=0, got -1'],
  [{ kv: { policy: 'h2o', interval: 0 } }, 'pruning.kv.interval', '>=1, got 0'],
  [{ kv: { policy: 'snapkv', kernel: 4 } }, 'pruning.kv.kernel', 'expected an odd number'],
  [{ kv: { policy: 'kvzip', sink: 0 } }, 'pruning.kv.sink', '>=1, got 0'],
  [{ kv: { policy: 'random', seed: 2 ** 32 } }, 'pruning.kv.seed', 'got 4294967296'],
  [{ kv: { policy: 'duo-attention', sparsity: 2 } }, 'pruning.kv.sparsity', 'got 2'],
  [
    { kv: { policy: 'duo-attention', prefill: 'lazy' } },
    'pruning.kv.prefill',
    '"streaming"|"exact", got "lazy"',
  ],
  [{ tokens: { policy: 'lazyllm', stages: [] } }, 'pruning.tokens.stages', 'got a list of 0'],
  [{ tokens: { policy: 'lazyllm', stages: [{ layer: 1 }] } }, 'pruning.tokens.stages[0].keep', 'got nothing'],
  // Options that do not go together.
  [
    { kv: { policy: 'h2o', keep: 0.5, max_entries: 9 } },
    'pruning.kv.max_entries',
    'expected keep or max_entries, got both',
  ],
  [
    { kv: { policy: 'key-norm', max_entries: 20 } },
    'pruning.kv.max_entries',
    'expected at least 36 (sink + recent), got 20',
  ],
  [
    { kv: { policy: 'tova', max_entries: 4, recent: 5 } },
    'pruning.kv.max_entries',
    'expected at least 5 (recent), got 4',
  ],
  [
    { kv: { policy: 'streaming-llm', max_entries: 3 } },
    'pruning.kv.max_entries',
    'expected at least 4 (sink), got 3',
  ],
  [
    { kv: { policy: 'snapkv', max_entries: 40, sink: 2, observation_window: 64 } },
    'pruning.kv.max_entries',
    'expected at least 66 (sink + observation_window), got 40',
  ],
  [
    { kv: { policy: 'quest', max_entries: 15 } },
    'pruning.kv.max_entries',
    'expected at least 16 (page), got 15',
  ],
  [
    { kv: { policy: 'longheads', max_entries: 47, chunk: 16 } },
    'pruning.kv.max_entries',
    'expected at least 48 (the first chunk + the last one + one between), got 47',
  ],
  // What this model does not have: six layers, six query heads.
  [
    { kv: { policy: 'quest', dense_layers: 7 } },
    'pruning.kv.dense_layers',
    "expected at most the model's 6 layers, got 7",
  ],
  [
    { tokens: { policy: 'lazyllm', stages: [{ layer: 5, keep: 0.5 }] } },
    'pruning.tokens.stages[0].layer',
    'expected a layer with attention before the last one (0-4), got 5',
  ],
  [
    {
      tokens: {
        policy: 'random',
        stages: [
          { layer: 2, keep: 0.9 },
          { layer: 2, keep: 0.5 },
        ],
      },
    },
    'pruning.tokens.stages[1].layer',
    'expected a layer above 2, got 2',
  ],
  [
    { tokens: { policy: 'ftp', layers: [0] } },
    'pruning.tokens.layers[0]',
    'expected a layer above the first (1-5), got 0',
  ],
  [
    { tokens: { policy: 'ftp', layers: [1, 1] } },
    'pruning.tokens.layers[1]',
    'expected each layer once, got 1 again',
  ],
  [{ layers: 'attention-drop' }, 'pruning.layers.drop', 'expected array, got nothing'],
  [{ layers: { policy: 'attention-drop', drop: [] } }, 'pruning.layers.drop', 'got a list of 0'],
  [
    { layers: { policy: 'attention-drop', drop: [1, 6] } },
    'pruning.layers.drop[1]',
    'expected a layer with attention (0-5), got 6',
  ],
  [{ layers: 'finercut' }, 'pruning.layers', 'expected at least one layer in attention or mlp'],
  [
    { layers: { policy: 'finercut', mlp: [9] } },
    'pruning.layers.mlp[0]',
    'expected a layer with an MLP (0-5), got 9',
  ],
  [{ layers: { policy: 'finercut', attention: [-1] } }, 'pruning.layers.attention[0]', 'got -1'],
  [
    { layers: { policy: 'head-mask', heads: [[6, 0]] } },
    'pruning.layers.heads[0][0]',
    'expected a layer with attention (0-5), got 6',
  ],
  [
    { layers: { policy: 'head-mask', heads: [[1, 6]] } },
    'pruning.layers.heads[0][1]',
    'expected a query head of layer 1 (0-5), got 6',
  ],
  [
    {
      layers: {
        policy: 'head-mask',
        heads: [
          [1, 2],
          [1, 2],
        ],
      },
    },
    'pruning.layers.heads[1]',
    'expected each query head once, got [1, 2] again',
  ],
  [{ layers: { policy: 'head-mask', heads: [[1]] } }, 'pruning.layers.heads[0]', 'got a list of 1'],
  [{ layers: { policy: 'head-mask', heads: [[1, 2]], factor: -1 } }, 'pruning.layers.factor', 'got -1'],
  // Families that do not go together.
  [
    { tokens: 'lazyllm', kv: 'h2o' },
    'pruning',
    'expected "prefill_only": true in tokens beside the evicting kv policy h2o',
  ],
  [{ tokens: 'lazyllm', kv: 'quest' }, 'pruning', 'expected "prefill_only": true in tokens beside quest'],
  [
    { tokens: 'ftp', layers: { policy: 'attention-drop', drop: [0] } },
    'pruning',
    'expected attention to run before the first tokens are left out, got none up to layer 0',
  ],
];

describe('refused', () => {
  it.each(
    REFUSALS.map(([value, param, message]) => ({ value, text: JSON.stringify(value), param, message })),
  )('$text names $param', ({ value, param, message }) => {
    const refused = refusal(value);
    expect(refused.param).toBe(param);
    expect(refused.message.startsWith(`${param}: `)).toBe(true);
    expect(refused.message).toContain(message);
  });

  it.each([
    [
      { kv: 'duo-attention' },
      'pruning.kv.policy',
      'duo-attention cannot run here: the model has no DuoAttention pattern',
    ],
    [{ layers: { policy: 'attention-drop', drop: [2] } }, 'pruning.layers.drop[0]', '(0-1, 3-4), got 2'],
    [{ layers: { policy: 'finercut', mlp: [3] } }, 'pruning.layers.mlp[0]', '(0-2, 4), got 3'],
    [
      { layers: { policy: 'head-mask', heads: [[3, 2]] } },
      'pruning.layers.heads[0][1]',
      'layer 3 (0-1), got 2',
    ],
    [
      { tokens: { policy: 'lazyllm', stages: [{ layer: 2, keep: 0.5 }] } },
      'pruning.tokens.stages[0].layer',
      '(0-1, 3), got 2',
    ],
    [
      { tokens: { policy: 'spatten', head_keep: 0.5 } },
      'pruning.tokens.head_keep',
      'expected 1: the layers of this model differ',
    ],
  ])('%j by a pruned model names %s', (value, param, message) => {
    const refused = refusal(value, PRUNED_SHAPE);
    expect(refused.param).toBe(param);
    expect(refused.message).toContain(message);
  });

  it('below another name, where the value came from there', () => {
    expect(() => parsePruning({ kv: 'h20' }, {}, DENSE_SHAPE, 'pruning.default')).toThrow(
      expect.objectContaining({ param: 'pruning.default.kv.policy' }),
    );
  });
});

describe('layer policies', () => {
  it('plan what they were told', () => {
    const dropped = create('layers', { policy: 'attention-drop', drop: [4, 0] }, DENSE_SHAPE);
    expect(dropped.attention).toEqual([false, true, true, true, false, true]);
    expect(dropped.mlp).not.toContain(false);
    const cut = create('layers', { policy: 'finercut', attention: [1], mlp: [2, 5] }, DENSE_SHAPE);
    expect(cut.attention).toEqual([true, false, true, true, true, true]);
    expect(cut.mlp).toEqual([true, true, false, true, true, false]);
    const heads = [
      [1, 2],
      [1, 0],
    ];
    const masked = create('layers', { policy: 'head-mask', heads, factor: 0.25 }, DENSE_SHAPE);
    expect(masked.headScale).toEqual([null, [0.25, 1, 0.25, 1, 1, 1], null, null, null, null]);
    const silent = create('layers', { policy: 'head-mask', heads: [[0, 5]] }, DENSE_SHAPE);
    expect(silent.headScale[0]).toEqual([1, 1, 1, 1, 1, 0]);
  });
});
