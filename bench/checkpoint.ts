/** Writes the checkpoint that every engine of the benchmark loads: Qwen2.5-0.5B's shape with seeded random weights. */
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import envPaths from 'env-paths';
import type { ModelShape } from '../src/policies/index.ts';

const SHAPE = {
  layers: 24,
  hidden: 896,
  queryHeads: 14,
  kvHeads: 2,
  headDim: 64,
  mlp: 4864,
  vocab: 151_936,
  std: 0.02,
} as const;
const SEED = 1;
const CONTROL_TOKENS = { '<|endoftext|>': 151_643, '<|im_start|>': 151_644, '<|im_end|>': 151_645 } as const;

/** Where all files of the benchmark lie, unless `COPPICE_BENCH_DIR` names another folder. */
export function benchFolder(): string {
  return process.env['COPPICE_BENCH_DIR'] ?? path.join(envPaths('coppice', { suffix: '' }).cache, 'bench');
}

/**
 * Writes the checkpoint (about 1 GB: `model.safetensors` in f16 and its JSON files) unless it is there already.
 * The folder appears in one step, when it is complete.
 * @returns the folder.
 */
export function ensureCheckpoint(folder: string = path.join(benchFolder(), 'hf')): string {
  if (fs.existsSync(folder)) return folder;
  const partial = `${folder}.${process.pid}.partial`;
  fs.mkdirSync(path.join(partial, 'duo-attention'), { recursive: true });
  try {
    for (const [name, text] of Object.entries(textFiles())) fs.writeFileSync(path.join(partial, name), text);
    writeWeights(path.join(partial, 'model.safetensors'));
    fs.renameSync(partial, folder);
  } catch (error) {
    fs.rmSync(partial, { recursive: true, force: true });
    throw error;
  }
  return folder;
}

/** What policies know of the checkpoint before it is loaded; whether it has gates is left open. */
export function policyShape(): ModelShape {
  const layer = { queryHeads: SHAPE.queryHeads, kvHeads: SHAPE.kvHeads, hasMlp: true };
  return { layers: Array.from({ length: SHAPE.layers }, () => layer), gates: null };
}

interface TensorSpec {
  name: string;
  shape: number[];
  /** Norm weights are all 1; everything else is drawn. */
  ones: boolean;
}

function tensorSpecs(): TensorSpec[] {
  const { layers, hidden, mlp, vocab } = SHAPE;
  const [query, kv] = [SHAPE.queryHeads * SHAPE.headDim, SHAPE.kvHeads * SHAPE.headDim];
  const drawn = (name: string, ...shape: number[]) => ({ name, shape, ones: false });
  const norm = (name: string) => ({ name, shape: [hidden], ones: true });
  const layer = (prefix: string) => [
    norm(`${prefix}.input_layernorm.weight`),
    ...Object.entries({ q: query, k: kv, v: kv }).flatMap(([part, rows]) => [
      drawn(`${prefix}.self_attn.${part}_proj.weight`, rows, hidden),
      drawn(`${prefix}.self_attn.${part}_proj.bias`, rows),
    ]),
    drawn(`${prefix}.self_attn.o_proj.weight`, hidden, query),
    norm(`${prefix}.post_attention_layernorm.weight`),
    drawn(`${prefix}.mlp.gate_proj.weight`, mlp, hidden),
    drawn(`${prefix}.mlp.up_proj.weight`, mlp, hidden),
    drawn(`${prefix}.mlp.down_proj.weight`, hidden, mlp),
  ];
  return [
    drawn('model.embed_tokens.weight', vocab, hidden),
    ...Array.from({ length: layers }, (_, i) => layer(`model.layers.${i}`)).flat(),
    norm('model.norm.weight'),
  ];
}

/** safetensors: u64 length of the header, JSON header padded to 8 bytes, then the tensors back to back. */
function writeWeights(file: string): void {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  const specs = tensorSpecs();
  const sizes = specs.map(({ shape }) => shape.reduce((product, dim) => product * dim, 1));
  let offset = 0;
  specs.forEach(({ name, shape }, i) => {
    const end = offset + 2 * sizes[i]!;
    header[name] = { dtype: 'F16', shape, data_offsets: [offset, end] };
    offset = end;
  });
  const json = Buffer.from(JSON.stringify(header));
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  head.writeBigUInt64LE(BigInt(head.length - 8));
  json.copy(head, 8);

  const out = fs.openSync(file, 'wx');
  try {
    fs.writeSync(out, head);
    const draw = normalDraws(SEED, SHAPE.std);
    const block = new Uint16Array(1 << 20);
    specs.forEach(({ ones }, i) => {
      for (let left = sizes[i]!; left > 0; left -= block.length) {
        const part = block.subarray(0, Math.min(left, block.length));
        if (ones) part.fill(toHalf(1));
        else draw(part);
        writeFully(out, new Uint8Array(part.buffer, 0, part.byteLength));
      }
    });
    fs.fsyncSync(out);
  } finally {
    fs.closeSync(out);
  }
}

function writeFully(out: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += fs.writeSync(out, bytes, done);
}

/**
 * Fills arrays with f16 bits of normal values. Half a billion draws: each takes 16 bits of a hashed counter and looks
 * its value up among 65,536 quantiles, so that the weights are the same wherever they are made, and made in seconds.
 */
function normalDraws(seed: number, std: number): (out: Uint16Array) => void {
  const quantiles = Uint16Array.from(normalQuantiles(1 << 16), (z) => toHalf(z * std));
  let counter = Math.imul(seed, 0x9e3779b1);
  let spare = -1;
  return (out) => {
    for (let i = 0; i < out.length; i++) {
      if (spare >= 0) {
        out[i] = quantiles[spare]!;
        spare = -1;
        continue;
      }
      const bits = scramble(counter++ | 0);
      out[i] = quantiles[bits & 0xffff]!;
      spare = bits >>> 16;
    }
  };
}

/** A bijection of 32-bit integers in which every input bit reaches every output bit. */
function scramble(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** The (i + 1/2) / count quantiles of the standard normal distribution, found by walking along its density. */
function normalQuantiles(count: number): Float64Array {
  const quantiles = new Float64Array(count);
  const step = 1e-5;
  let [z, mass] = [0, 0.5];
  for (let i = count / 2; i < count; i++) {
    while (mass < (i + 0.5) / count) {
      mass += (step * Math.exp(-((z + step / 2) ** 2) / 2)) / Math.sqrt(2 * Math.PI);
      z += step;
    }
    quantiles[i] = z;
    quantiles[count - 1 - i] = -z;
  }
  return quantiles;
}

/** Nearest f16 bit pattern of a number below 65,504 in size. */
function toHalf(value: number): number {
  const size = Math.abs(value);
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const bits = (exponent + 14) * 1024 + Math.round(size / 2 ** (exponent - 10));
  return value < 0 ? bits + 0x8000 : bits;
}

function textFiles(): Record<string, string> {
  const json = (value: unknown) => JSON.stringify(value, null, 2) + '\n';
  const [endOfText, , imEnd] = Object.keys(CONTROL_TOKENS);
  return {
    'config.json': json(modelConfig()),
    'generation_config.json': json({ bos_token_id: 151_643, eos_token_id: 151_645, do_sample: false }),
    'tokenizer.json': json(tokenizer()),
    'tokenizer_config.json': json({
      tokenizer_class: 'PreTrainedTokenizerFast',
      model_max_length: 32_768,
      eos_token: imEnd,
      pad_token: endOfText,
      clean_up_tokenization_spaces: false,
      chat_template:
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}" +
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    }),
    'duo-attention/config.json': json({ sink_size: 64, recent_size: 256 }),
    'duo-attention/full_attention_heads.tsv': headGates(),
  };
}

function modelConfig(): object {
  return {
    architectures: ['Qwen2ForCausalLM'],
    model_type: 'qwen2',
    vocab_size: SHAPE.vocab,
    hidden_size: SHAPE.hidden,
    intermediate_size: SHAPE.mlp,
    num_hidden_layers: SHAPE.layers,
    num_attention_heads: SHAPE.queryHeads,
    num_key_value_heads: SHAPE.kvHeads,
    head_dim: SHAPE.headDim,
    hidden_act: 'silu',
    max_position_embeddings: 32_768,
    rope_theta: 1_000_000,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
    initializer_range: SHAPE.std,
    use_sliding_window: false,
    attention_dropout: 0,
    use_cache: true,
    bos_token_id: 151_643,
    eos_token_id: 151_645,
    torch_dtype: 'float16',
  };
}

/**
 * 256 byte tokens and the control tokens of the real vocabulary: prompts are given as ids, so nothing else is needed.
 * One merge, because loaders take an empty list for a missing one; the control tokens are also in the vocabulary,
 * because the tokenizers library would give them the next free ids otherwise.
 */
function tokenizer(): object {
  const space = byteCharacter(0x20);
  const bytes = Array.from({ length: 256 }, (_, byte) => [byteCharacter(byte), byte] as const);
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: Object.entries(CONTROL_TOKENS).map(([content, id]) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: { ...Object.fromEntries(bytes), [space + space]: 256, ...CONTROL_TOKENS },
      merges: [[space, space]],
    },
  };
}

/** Byte-level BPE writes printable Latin-1 bytes as themselves and the others as characters from U+0100 on, in order. */
function byteCharacter(byte: number): string {
  const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b !== 0xad);
  if (printable(byte)) return String.fromCharCode(byte);
  let rank = 0;
  for (let b = 0; b < byte; b++) if (!printable(b)) rank++;
  return String.fromCharCode(0x100 + rank);
}

/** A DuoAttention gate for each KV head, all different, so that any share of streaming heads has one answer. */
function headGates(): string {
  const count = SHAPE.layers * SHAPE.kvHeads;
  // The order of distinct hashes is a random permutation; its ranks are evenly spread gates.
  const hashes = Array.from({ length: count }, (_, i) => scramble(i + 1));
  const gates = hashes.map((hash) => (hashes.filter((other) => other < hash).length + 0.5) / count);
  const rows = Array.from({ length: SHAPE.layers }, (_, l) =>
    gates.slice(l * SHAPE.kvHeads, (l + 1) * SHAPE.kvHeads).map((gate) => gate.toExponential(18)),
  );
  return rows.map((row) => row.join('\t') + '\n').join('');
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [folder] = process.argv.slice(2);
  process.stdout.write(ensureCheckpoint(folder) + '\n');
}
