/** Text to token ids and back, equal to the reference implementation of Hugging Face tokenizers for BPE models. */
import { join } from 'node:path';
import { AppError, errorMessage } from '../errors.ts';
import { AddedTokenFinder } from './added-tokens.ts';
import { Bpe } from './bpe.kernel.ts';
import { ControlTextFinder } from './control-text.ts';
import { modelFileError, readModelJson } from './model-file.ts';
import { compileNormalizer } from './normalizer.ts';
import { boundaryIds } from './post-processor.ts';
import { compilePreTokenizer } from './pre-tokenizer.ts';
import { collectAddedTokens } from './special-tokens.ts';
import { maxTokenBytes } from './token-span.ts';
import { compileDecoder, decodeLossy, tokenBytes } from './token-decoder.ts';
import { tokenizerConfigSchema, tokenizerSchema } from './tokenizer-file.ts';
import type { Normalizer } from './normalizer.ts';
import type { PreTokenizer } from './pre-tokenizer.ts';
import type { TokenDecoder } from './token-decoder.ts';
import type { AddedToken, TokenizerConfig, TokenizerFile } from './tokenizer-file.ts';

/** Where added tokens are looked for: in the text as it is, and again once it is normalised. */
interface Finders {
  readonly raw: AddedTokenFinder;
  readonly normalized: AddedTokenFinder;
}

export interface EncodeOptions {
  /** Text goes on after so many ids: the work stops, and there are more ids than this. */
  readonly maxIds?: number | undefined;
}

export class Tokenizer {
  /** Highest id + 1; the model's head may have more rows, which mean nothing. */
  readonly vocabSize: number;
  /** Ids of control tokens: never part of output text. */
  readonly specialIds: ReadonlySet<number>;
  /** Ids that the post-processor puts before a text: the BOS token, or none. */
  readonly prefixIds: readonly number[];
  /** Ids that the post-processor puts after a text: usually none. */
  readonly suffixIds: readonly number[];
  /** The most UTF-8 bytes of a text that one token can stand for; null = no bound is known. */
  readonly maxTokenBytes: number | null;
  readonly controlText: ControlTextFinder;
  readonly #normalizer: Normalizer | null;
  readonly #preTokenizer: PreTokenizer | null;
  readonly #bpe: Bpe;
  readonly #decoder: readonly TokenDecoder[] | null;
  readonly #addedTexts: ReadonlyMap<number, string>;
  readonly #allTokens: Finders;
  readonly #plainTokens: Finders;
  readonly #controlTokens: AddedTokenFinder;

  /** @throws Error naming the part of the file that cannot be used. */
  constructor(file: TokenizerFile, config: TokenizerConfig) {
    this.#normalizer = file.normalizer == null ? null : compileNormalizer(file.normalizer);
    this.#preTokenizer = file.pre_tokenizer == null ? null : compilePreTokenizer(file.pre_tokenizer);
    this.#decoder = file.decoder == null ? null : compileDecoder(file.decoder);
    const idInVocab = (text: string) =>
      Object.hasOwn(file.model.vocab, text) ? file.model.vocab[text] : undefined;
    const added = collectAddedTokens(file.added_tokens, config, idInVocab);
    this.maxTokenBytes = maxTokenBytes(file, added);
    const special = added.filter((token) => token.special);
    this.specialIds = new Set(special.map((token) => token.id));
    this.controlText = new ControlTextFinder(special.map((token) => token.content));
    this.#bpe = new Bpe(file.model, this.specialIds);
    this.vocabSize = added.reduce((size, token) => Math.max(size, token.id + 1), this.#bpe.tokens.length);
    this.#addedTexts = new Map(added.map((token) => [token.id, this.#soughtText(token)]));
    this.#allTokens = this.#finders(added);
    this.#plainTokens = this.#finders(added.filter((token) => !token.special));
    this.#controlTokens = new AddedTokenFinder(special);
    const idOf = (text: string) => added.find((token) => token.content === text)?.id ?? idInVocab(text);
    ({ prefix: this.prefixIds, suffix: this.suffixIds } = boundaryIds(
      file.post_processor ?? null,
      config,
      idOf,
    ));
  }

  /**
   * Reads `tokenizer.json` and, if there is one, `tokenizer_config.json`.
   * @throws AppError `startup` naming the file that is missing or cannot be used.
   */
  static load(modelDir: string): Tokenizer {
    const path = join(modelDir, 'tokenizer.json');
    const file = readModelJson(modelDir, 'tokenizer.json', tokenizerSchema);
    if (file === null) throw modelFileError(path, 'expected a file, got none');
    const config = readModelJson(modelDir, 'tokenizer_config.json', tokenizerConfigSchema) ?? {};
    try {
      return new Tokenizer(file, config);
    } catch (error) {
      throw modelFileError(path, errorMessage(error), error);
    }
  }

  /** Text that names control tokens yields them. `addSpecialTokens` (default true): BOS as the model's files say. */
  encode(text: string, options: EncodeOptions & { addSpecialTokens?: boolean } = {}): number[] {
    const ids = this.#encodeWith(this.#allTokens, text, true, options.maxIds);
    return (options.addSpecialTokens ?? true) ? [...this.prefixIds, ...ids, ...this.suffixIds] : ids;
  }

  /** Text that names control tokens stays text. Nothing is added before or after. */
  encodePlain(text: string): number[] {
    return this.#encodeWith(this.#plainTokens, text, true);
  }

  /**
   * Encodes text whose control tokens are meant, and whose other stretches are `restore`d and then plain.
   * Nothing is added before or after.
   */
  encodeTemplated(
    text: string,
    restore: (text: string) => string,
    { maxIds = Infinity }: EncodeOptions = {},
  ): number[] {
    const ids: number[] = [];
    for (const segment of this.#controlTokens.split(text)) {
      if (ids.length > maxIds) break;
      if (segment.token !== undefined) ids.push(segment.token.id);
      else
        append(ids, this.#encodeWith(this.#plainTokens, restore(segment.text), segment.start === 0, maxIds));
    }
    return ids;
  }

  /**
   * @param options.skipSpecialTokens default true.
   * @param options.param names the ids in an error (default `tokens`).
   * @throws AppError `invalid_request` for an id without a token.
   */
  decode(ids: ArrayLike<number>, options: { skipSpecialTokens?: boolean; param?: string } = {}): string {
    const skip = options.skipSpecialTokens ?? true;
    const tokens: string[] = [];
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] ?? -1;
      const token = this.#token(id);
      if (token === undefined) {
        const expected = `expected a token id from 0 to ${this.vocabSize - 1}, got ${id}`;
        throw new AppError('invalid_request', expected, { param: `${options.param ?? 'tokens'}[${i}]` });
      }
      if (!skip || !this.specialIds.has(id)) tokens.push(token);
    }
    return this.#decoder === null ? tokens.join(' ') : decodeStages(this.#decoder, tokens);
  }

  /** Of these texts, those that are control tokens: their ids. */
  controlTokenIds(texts: readonly string[]): Map<string, number> {
    const ids = new Map<string, number>();
    for (const id of this.specialIds) {
      const text = this.#addedTexts.get(id);
      if (text !== undefined && texts.includes(text)) ids.set(text, id);
    }
    return ids;
  }

  has(id: number): boolean {
    return this.#token(id) !== undefined;
  }

  /** One token by itself, leading space kept, U+FFFD for part of a character; '' for an id without a token. */
  tokenText(id: number): string {
    return decodeLossy(this.tokenBytes(id));
  }

  /** UTF-8 bytes that the token adds inside a text; none for an id without a token. */
  tokenBytes(id: number): Uint8Array {
    const added = this.#addedTexts.get(id);
    if (added !== undefined) return Buffer.from(added, 'utf8');
    return tokenBytes(this.#decoder ?? [], this.#token(id) ?? '');
  }

  #token(id: number): string | undefined {
    return this.#addedTexts.get(id) ?? this.#bpe.tokens[id];
  }

  /** What an added token is looked for as, and decoded to: the reference normalises those marked so. */
  #soughtText(token: AddedToken): string {
    return token.normalized ? (this.#normalizer?.(token.content) ?? token.content) : token.content;
  }

  #finders(tokens: readonly AddedToken[]): Finders {
    return {
      raw: new AddedTokenFinder(tokens.filter((token) => !token.normalized)),
      normalized: new AddedTokenFinder(
        tokens.filter((token) => token.normalized),
        (token) => this.#soughtText(token),
      ),
    };
  }

  /** `atStart`: nothing stands before the text. Lone surrogates become U+FFFD: they have no UTF-8. */
  #encodeWith(finders: Finders, text: string, atStart: boolean, maxIds = Infinity): number[] {
    const ids: number[] = [];
    for (const raw of finders.raw.split(text.toWellFormed())) {
      if (raw.token !== undefined) {
        ids.push(raw.token.id);
        continue;
      }
      const normalized = this.#normalizer?.(raw.text) ?? raw.text;
      for (const segment of finders.normalized.split(normalized)) {
        if (segment.token !== undefined) {
          ids.push(segment.token.id);
          continue;
        }
        const first = atStart && raw.start === 0 && segment.start === 0;
        const pieces = this.#preTokenizer?.(segment.text, first) ?? [segment.text];
        for (const piece of pieces) {
          if (ids.length > maxIds) return ids;
          this.#bpe.encode(piece, ids);
        }
      }
    }
    return ids;
  }
}

/** `push(...items)` would overflow the stack on a long prompt. */
function append(ids: number[], more: readonly number[]): void {
  for (const id of more) ids.push(id);
}

function decodeStages(stages: readonly TokenDecoder[], tokens: readonly string[]): string {
  return stages.reduce((texts, stage) => stage.decode(texts), tokens).join('');
}
