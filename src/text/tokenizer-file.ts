/** The shapes of `tokenizer.json` and `tokenizer_config.json`: what we accept of them, and nothing more. */
import { z } from 'zod';

const patternSchema = z.union([z.object({ String: z.string() }), z.object({ Regex: z.string() })]);
export type PatternConfig = z.infer<typeof patternSchema>;

export type NormalizerConfig =
  | { type: 'Sequence'; normalizers: NormalizerConfig[] }
  | { type: 'Replace'; pattern: PatternConfig; content: string }
  | { type: 'Prepend'; prepend: string }
  | { type: 'Strip'; strip_left: boolean; strip_right: boolean }
  | { type: 'NFC' | 'NFD' | 'NFKC' | 'NFKD' };

const normalizerSchema: z.ZodType<NormalizerConfig> = z.lazy(() =>
  z.discriminatedUnion('type', [
    z.object({ type: z.literal('Sequence'), normalizers: z.array(normalizerSchema) }),
    z.object({ type: z.literal('Replace'), pattern: patternSchema, content: z.string() }),
    z.object({ type: z.literal('Prepend'), prepend: z.string() }),
    z.object({ type: z.literal('Strip'), strip_left: z.boolean(), strip_right: z.boolean() }),
    z.object({ type: z.enum(['NFC', 'NFD', 'NFKC', 'NFKD']) }),
  ]),
);

const splitBehaviorSchema = z.enum([
  'Isolated',
  'Removed',
  'MergedWithPrevious',
  'MergedWithNext',
  'Contiguous',
]);
export type SplitBehavior = z.infer<typeof splitBehaviorSchema>;

const prependSchemeSchema = z.enum(['always', 'first', 'never']).default('always');

export type PreTokenizerConfig =
  | { type: 'Sequence'; pretokenizers: PreTokenizerConfig[] }
  | { type: 'ByteLevel'; add_prefix_space: boolean; use_regex: boolean }
  | { type: 'Split'; pattern: PatternConfig; behavior: SplitBehavior; invert: boolean }
  | { type: 'Digits'; individual_digits: boolean }
  | { type: 'Punctuation'; behavior: SplitBehavior }
  | { type: 'Metaspace'; replacement: string; prepend_scheme: 'always' | 'first' | 'never'; split: boolean };

const preTokenizerSchema: z.ZodType<PreTokenizerConfig> = z.lazy(() =>
  z.discriminatedUnion('type', [
    z.object({ type: z.literal('Sequence'), pretokenizers: z.array(preTokenizerSchema) }),
    z.object({
      type: z.literal('ByteLevel'),
      add_prefix_space: z.boolean().default(true),
      use_regex: z.boolean().default(true),
    }),
    z.object({
      type: z.literal('Split'),
      pattern: patternSchema,
      behavior: splitBehaviorSchema,
      invert: z.boolean().default(false),
    }),
    z.object({ type: z.literal('Digits'), individual_digits: z.boolean().default(false) }),
    z.object({ type: z.literal('Punctuation'), behavior: splitBehaviorSchema.default('Isolated') }),
    z.object({
      type: z.literal('Metaspace'),
      replacement: z.string().default('▁'),
      prepend_scheme: prependSchemeSchema,
      split: z.boolean().default(true),
    }),
  ]),
);

const templatePieceSchema = z.union([
  z.object({ SpecialToken: z.object({ id: z.string() }) }),
  z.object({ Sequence: z.object({ id: z.enum(['A', 'B']) }) }),
]);
const namedTokenSchema = z.tuple([z.string(), z.number().int()]);

export type PostProcessorConfig =
  | { type: 'Sequence'; processors: PostProcessorConfig[] }
  | {
      type: 'TemplateProcessing';
      single: z.infer<typeof templatePieceSchema>[];
      special_tokens: Record<string, { ids: number[] }>;
    }
  | { type: 'BertProcessing' | 'RobertaProcessing'; cls: [string, number]; sep: [string, number] }
  | { type: 'ByteLevel' };

const postProcessorSchema: z.ZodType<PostProcessorConfig> = z.lazy(() =>
  z.discriminatedUnion('type', [
    z.object({ type: z.literal('Sequence'), processors: z.array(postProcessorSchema) }),
    z.object({
      type: z.literal('TemplateProcessing'),
      single: z.array(templatePieceSchema),
      special_tokens: z.record(z.string(), z.object({ ids: z.array(z.number().int()) })),
    }),
    z.object({
      type: z.enum(['BertProcessing', 'RobertaProcessing']),
      cls: namedTokenSchema,
      sep: namedTokenSchema,
    }),
    z.object({ type: z.literal('ByteLevel') }),
  ]),
);

export type DecoderConfig =
  | { type: 'Sequence'; decoders: DecoderConfig[] }
  | { type: 'ByteLevel' | 'ByteFallback' | 'Fuse' }
  | { type: 'Replace'; pattern: PatternConfig; content: string }
  | { type: 'Strip'; content: string; start: number; stop: number }
  | { type: 'Metaspace'; replacement: string; prepend_scheme: 'always' | 'first' | 'never' };

const decoderSchema: z.ZodType<DecoderConfig> = z.lazy(() =>
  z.discriminatedUnion('type', [
    z.object({ type: z.literal('Sequence'), decoders: z.array(decoderSchema) }),
    z.object({ type: z.enum(['ByteLevel', 'ByteFallback', 'Fuse']) }),
    z.object({ type: z.literal('Replace'), pattern: patternSchema, content: z.string() }),
    z.object({
      type: z.literal('Strip'),
      content: z.string().length(1),
      start: z.number().int(),
      stop: z.number().int(),
    }),
    z.object({
      type: z.literal('Metaspace'),
      replacement: z.string().default('▁'),
      prepend_scheme: prependSchemeSchema,
    }),
  ]),
);

const addedTokenSchema = z.object({
  id: z.number().int().nonnegative(),
  content: z.string().min(1),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean().default(false),
  special: z.boolean().default(false),
});
export type AddedToken = z.infer<typeof addedTokenSchema>;

/** `vocab` and `merges` are checked entry by entry where they are read: they have hundreds of thousands. */
const bpeSchema = z.object({
  // Files of before 2021 name no type.
  type: z.literal('BPE').default('BPE'),
  vocab: z.custom<Record<string, number>>(
    (v) => typeof v === 'object' && v !== null,
    'expected an object of ids',
  ),
  merges: z.custom<readonly unknown[]>((v) => Array.isArray(v), 'expected a list of pairs'),
  unk_token: z.string().nullish(),
  fuse_unk: z.boolean().nullish(),
  byte_fallback: z.boolean().nullish(),
  ignore_merges: z.boolean().nullish(),
  // Not used by any model family we run; refused rather than ignored.
  dropout: z.literal(0).nullish(),
  continuing_subword_prefix: z.literal('').nullish(),
  end_of_word_suffix: z.literal('').nullish(),
});
export type BpeConfig = z.infer<typeof bpeSchema>;

/** `truncation` and `padding` are left out on purpose: they belong to whoever trained the model. */
export const tokenizerSchema = z.object({
  added_tokens: z.array(addedTokenSchema).default([]),
  normalizer: normalizerSchema.nullish(),
  pre_tokenizer: preTokenizerSchema.nullish(),
  post_processor: postProcessorSchema.nullish(),
  decoder: decoderSchema.nullish(),
  model: bpeSchema,
});
export type TokenizerFile = z.infer<typeof tokenizerSchema>;

const tokenNameSchema = z
  .union([z.string(), z.object({ content: z.string() }).transform((token) => token.content)])
  .nullish();

export const tokenizerConfigSchema = z.object({
  bos_token: tokenNameSchema,
  eos_token: tokenNameSchema,
  unk_token: tokenNameSchema,
  sep_token: tokenNameSchema,
  pad_token: tokenNameSchema,
  cls_token: tokenNameSchema,
  mask_token: tokenNameSchema,
  additional_special_tokens: z.array(tokenNameSchema).nullish(),
  add_bos_token: z.boolean().nullish(),
  add_eos_token: z.boolean().nullish(),
  added_tokens_decoder: z.record(z.string(), addedTokenSchema.omit({ id: true })).nullish(),
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish(),
});
export type TokenizerConfig = z.infer<typeof tokenizerConfigSchema>;
