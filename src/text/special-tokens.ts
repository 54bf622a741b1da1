/** Gathers the added tokens of a model from both tokenizer files, and says which are control tokens. */
import type { AddedToken, TokenizerConfig } from './tokenizer-file.ts';

/**
 * The tokens of tokenizer.json, those that tokenizer_config.json adds or marks special, and the named ones (BOS, EOS, ...),
 * which are control tokens whatever else is said of them.
 */
export function collectAddedTokens(
  listed: readonly AddedToken[],
  config: TokenizerConfig,
  idInVocab: (text: string) => number | undefined,
): AddedToken[] {
  const byContent = new Map(listed.map((token) => [token.content, token]));
  for (const [id, token] of Object.entries(config.added_tokens_decoder ?? {})) {
    const known = byContent.get(token.content);
    byContent.set(
      token.content,
      known ? { ...known, special: known.special || token.special } : { ...token, id: Number(id) },
    );
  }
  for (const content of Object.values(namedTokens(config)).flat()) {
    const known = byContent.get(content);
    const id = known?.id ?? idInVocab(content);
    if (id === undefined) continue;
    const rest = known ?? { single_word: false, lstrip: false, rstrip: false, normalized: false };
    byContent.set(content, { ...rest, content, id, special: true });
  }
  return [...byContent.values()];
}

/** Texts of the tokens that tokenizer_config.json names: what templates know as `bos_token`, `eos_token`, ... */
export function namedTokens(config: TokenizerConfig): Record<string, string | string[]> {
  const { bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token } = config;
  const single = { bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token };
  const named: Record<string, string | string[]> = {};
  for (const [name, text] of Object.entries(single)) if (text != null) named[name] = text;
  const more = (config.additional_special_tokens ?? []).filter((text) => text != null);
  if (more.length > 0) named.additional_special_tokens = more;
  return named;
}
