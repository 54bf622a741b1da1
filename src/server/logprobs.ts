/** Log-probabilities in the two shapes of OpenAI: chat's and the older one of completions. */
import type { TokenLogprobs } from '../runtime/protocol.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import type { GeneratedToken } from './choice-text.ts';

/** OpenAI's stand-in for what JSON cannot write: minus infinity. */
const LOWEST_LOGPROB = -9999;

/** How tokens are named in a reply. */
export interface TokenNames {
  readonly tokenizer: Tokenizer;
  /** Write `token_id:123` in place of the text. */
  readonly asIds: boolean;
}

function finite(logprob: number): number {
  return Math.max(logprob, LOWEST_LOGPROB);
}

function tokenName({ tokenizer, asIds }: TokenNames, id: number): string {
  return asIds ? `token_id:${id}` : tokenizer.tokenText(id);
}

interface ChatLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
}

function chatEntry(names: TokenNames, id: number, logprob: number): ChatLogprob {
  return {
    token: tokenName(names, id),
    logprob: finite(logprob),
    bytes: [...names.tokenizer.tokenBytes(id)],
  };
}

export type ChatContentLogprob = ChatLogprob & { readonly top_logprobs: readonly ChatLogprob[] };

export function chatLogprobs(names: TokenNames, tokens: readonly GeneratedToken[]): ChatContentLogprob[] {
  return tokens.map(({ id, logprobs }) => ({
    ...chatEntry(names, id, logprobs.logprob),
    top_logprobs: logprobs.top.map(([other, logprob]) => chatEntry(names, other, logprob)),
  }));
}

/** The older shape: four lists, one entry a token; null logprobs for a first prompt token. */
export interface LegacyLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

export interface LegacyToken {
  readonly id: number;
  readonly logprobs: TokenLogprobs | null;
  readonly offset: number;
}

export function legacyLogprobs(
  names: TokenNames,
  tokens: readonly LegacyToken[],
  firstOffset: number,
): LegacyLogprobs {
  return {
    tokens: tokens.map(({ id }) => tokenName(names, id)),
    token_logprobs: tokens.map(({ logprobs }) => (logprobs === null ? null : finite(logprobs.logprob))),
    top_logprobs: tokens.map(({ id, logprobs }) =>
      logprobs === null ? null : topByName(names, id, logprobs),
    ),
    text_offset: tokens.map(({ offset }) => firstOffset + offset),
  };
}

/** The alternatives and the chosen token; of several tokens with one text the most probable stands. */
function topByName(names: TokenNames, id: number, { logprob, top }: TokenLogprobs): Record<string, number> {
  const byName = new Map<string, number>();
  for (const [other, value] of [...top, [id, logprob] as const]) {
    const name = tokenName(names, other);
    if (!byName.has(name)) byName.set(name, finite(value));
  }
  return Object.fromEntries(byName);
}

export function concatLegacy(parts: readonly LegacyLogprobs[]): LegacyLogprobs {
  return {
    tokens: parts.flatMap((part) => part.tokens),
    token_logprobs: parts.flatMap((part) => part.token_logprobs),
    top_logprobs: parts.flatMap((part) => part.top_logprobs),
    text_offset: parts.flatMap((part) => part.text_offset),
  };
}
