/** The loaded model as routes see it: text layer, engine, and what its own files say about generation. */
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { z } from 'zod';
import type { Vocabulary } from '../runtime/constraint/vocabulary.ts';
import type { Engine } from '../runtime/protocol.ts';
import { ChatTemplate } from '../text/chat-template.ts';
import { readModelJson } from '../text/model-file.ts';
import { REASONING_MARKERS } from '../text/reasoning.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { toolCallFormat } from '../text/tool-calls/index.ts';
import { grammarVocabulary } from '../text/vocabulary.ts';
import type { PruningSettings } from './presets.ts';

/** What a field means when the client leaves it out. */
interface SamplingDefaults {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** Completion tokens of a chat; null = what fits in the context. */
  readonly maxTokens: number | null;
}

export interface LoadedModel {
  /** Name on the wire. */
  readonly id: string;
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly endOfSequenceIds: readonly number[];
  readonly defaults: SamplingDefaults;
  readonly pruning: PruningSettings;
}

const tokenIds = z
  .union([z.int(), z.array(z.int())], { error: 'expected a token id or a list of them' })
  .nullish();

const generationConfigSchema = z.object({
  eos_token_id: tokenIds,
  do_sample: z.boolean().nullish(),
  temperature: z.number().min(0).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).nullish(),
  max_new_tokens: z.int().min(1).nullish(),
});

/**
 * All but the engine, which takes longer to start, and what depends on it.
 * @throws AppError `startup` naming the file.
 */
export function readModel(modelDir: string, id: string): Omit<LoadedModel, 'engine' | 'pruning'> {
  const generation = readModelJson(modelDir, 'generation_config.json', generationConfigSchema) ?? {};
  const config = readModelJson(modelDir, 'config.json', z.object({ eos_token_id: tokenIds }));
  return {
    id,
    tokenizer: Tokenizer.load(modelDir),
    template: ChatTemplate.load(modelDir),
    endOfSequenceIds: [generation.eos_token_id ?? config?.eos_token_id ?? []].flat(),
    defaults: samplingDefaults(generation),
  };
}

/**
 * As vLLM, values of `generation_config.json` become the defaults; beyond vLLM, an explicit `do_sample: false`
 * means greedy, which is what the model's authors asked for. `max_new_tokens` is a default here, never a ceiling.
 */
function samplingDefaults(generation: Partial<z.infer<typeof generationConfigSchema>>): SamplingDefaults {
  return {
    temperature: generation.do_sample === false ? 0 : (generation.temperature ?? 1),
    topP: generation.top_p ?? 1,
    topK: Math.max(0, generation.top_k ?? 0),
    minP: generation.min_p ?? 0,
    repetitionPenalty: generation.repetition_penalty ?? 1,
    maxTokens: generation.max_new_tokens ?? null,
  };
}

/** Of constrained completions: the markers of thoughts and calls may be part of them. */
export function modelVocabulary({
  tokenizer,
  template,
}: Pick<LoadedModel, 'tokenizer' | 'template'>): Vocabulary {
  const { markers } = toolCallFormat(template.source);
  return grammarVocabulary(tokenizer, new Set([...REASONING_MARKERS, ...markers]));
}

/** The name a model is served under: that of its folder, or its hub id without the revision. */
export function modelId(requested: string, modelDir: string): string {
  return existsSync(requested) ? basename(modelDir) : requested.replace(/@.*$/, '');
}
