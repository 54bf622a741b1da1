/** What a tokenizer.json puts before and after a text: in practice the BOS and EOS tokens. */
import type { PostProcessorConfig, TokenizerConfig } from './tokenizer-file.ts';

interface Boundary {
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
}

/**
 * `add_bos_token` and `add_eos_token` of tokenizer_config.json decide where they are set, else the post-processor.
 * @throws Error if the post-processor names a token that it gives no ids for.
 */
export function boundaryIds(
  processor: PostProcessorConfig | null,
  config: TokenizerConfig,
  idOf: (text: string) => number | undefined,
): Boundary {
  const { prefix, suffix } = processor === null ? { prefix: [], suffix: [] } : processorIds(processor);
  const bos = config.bos_token == null ? undefined : idOf(config.bos_token);
  const eos = config.eos_token == null ? undefined : idOf(config.eos_token);
  return {
    prefix: override(prefix, bos, config.add_bos_token),
    suffix: override(suffix, eos, config.add_eos_token),
  };
}

function override(
  ids: readonly number[],
  id: number | undefined,
  wanted: boolean | null | undefined,
): readonly number[] {
  if (wanted == null || id === undefined || ids.includes(id) === wanted) return ids;
  return wanted ? [id] : ids.filter((other) => other !== id);
}

function processorIds(config: PostProcessorConfig): Boundary {
  switch (config.type) {
    case 'ByteLevel':
      return { prefix: [], suffix: [] };
    case 'BertProcessing':
    case 'RobertaProcessing':
      return { prefix: [config.cls[1]], suffix: [config.sep[1]] };
    case 'Sequence':
      // Each wraps what the one before it made.
      return config.processors.map(processorIds).reduce(
        (inner, outer) => ({
          prefix: [...outer.prefix, ...inner.prefix],
          suffix: [...inner.suffix, ...outer.suffix],
        }),
        { prefix: [], suffix: [] },
      );
    case 'TemplateProcessing': {
      const text = config.single.findIndex((piece) => 'Sequence' in piece);
      const ids = config.single.map((piece) => {
        if (!('SpecialToken' in piece)) return [];
        const special = config.special_tokens[piece.SpecialToken.id];
        if (special === undefined)
          throw new Error(`post_processor: expected ids for ${piece.SpecialToken.id}, got none`);
        return special.ids;
      });
      return { prefix: ids.slice(0, text).flat(), suffix: ids.slice(text + 1).flat() };
    }
  }
}
