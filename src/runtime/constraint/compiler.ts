/**
 * Compiles constraints for the engine's vocabulary. Compiled grammars cannot leave the thread of their library, and masks
 * are needed in the engine's: so grammars are compiled there too, between two turns, and whoever makes constraints keeps
 * them cheap enough (`text/json-schema` does).
 */
import type { CompiledGrammar, GrammarCompiler, TokenizerInfo } from '@mlc-ai/web-xgrammar';
import { AppError } from '../../errors.ts';
import { type GrammarLibrary, loadGrammarLibrary } from './library.ts';
import { type ConstraintMatcher, createMatcher } from './matcher.ts';
import { Utf8Guard, type Vocabulary } from './vocabulary.ts';

/** Grammars that stay compiled; the one that was not asked for longest goes first. */
const MAX_COMPILED = 32;

interface Loaded {
  readonly library: GrammarLibrary;
  readonly info: TokenizerInfo;
  readonly compiler: GrammarCompiler;
  /** By the constraint's text. */
  readonly compiled: Map<string, CompiledGrammar>;
  readonly guard: Utf8Guard;
}

export class ConstraintCompiler {
  readonly #vocabulary: Vocabulary;
  readonly #vocabSize: number;
  /** Null before the first constraint, and after a failure: what an exception left behind in WebAssembly is not known. */
  #loaded: Loaded | null = null;
  #numMatchers = 0;

  /** @param vocabSize number of logits; those beyond the vocabulary are never chosen */
  constructor(vocabulary: Vocabulary, vocabSize: number) {
    this.#vocabulary = vocabulary;
    this.#vocabSize = vocabSize;
  }

  /** Matchers that have not been freed. */
  get numMatchers(): number {
    return this.#numMatchers;
  }

  /**
   * One matcher for each choice of a request.
   * @throws AppError `unsupported_value` if the library refuses the constraint
   */
  async createMatchers(
    constraint: string,
    count: number,
    stopTokenIds: readonly number[],
  ): Promise<ConstraintMatcher[]> {
    const matchers: ConstraintMatcher[] = [];
    try {
      this.#loaded ??= await this.#load();
      const compiled = await compile(this.#loaded, constraint);
      while (matchers.length < count) {
        const matcher = await this.#loaded.library.GrammarMatcher.createGrammarMatcher(compiled);
        this.#numMatchers++;
        const onFree = (): void => {
          this.#numMatchers--;
        };
        matchers.push(
          await createMatcher(matcher, {
            stopTokenIds,
            endId: this.#vocabSize,
            guard: this.#loaded.guard,
            onFree,
          }),
        );
      }
      return matchers;
    } catch (cause) {
      for (const matcher of matchers) matcher.free();
      this.#loaded = null;
      throw new AppError('unsupported_value', 'the grammar of this request cannot be compiled', { cause });
    }
  }

  /** Frees what is cached. Matchers are their owners' to free. */
  close(): void {
    for (const compiled of this.#loaded?.compiled.values() ?? []) compiled.dispose();
    this.#loaded?.compiler.dispose();
    this.#loaded?.info.dispose();
    this.#loaded = null;
  }

  async #load(): Promise<Loaded> {
    const library = loadGrammarLibrary();
    const tokens = this.#vocabulary.texts.split('\n').slice(0, this.#vocabSize);
    while (tokens.length <= this.#vocabSize) tokens.push('');
    // One token more than the model has is the only one that ends a text: its bit tells that the text is complete,
    // whatever ids end a choice in one request or the other.
    const endId = this.#vocabSize;
    const info = await library.TokenizerInfo.createTokenizerInfo(tokens, 'byte_level', false, endId + 1, [
      endId,
    ]);
    const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false);
    return { library, info, compiler, compiled: new Map(), guard: new Utf8Guard(this.#vocabulary) };
  }
}

/** The constraint's grammar, new or known. */
async function compile(
  { info, compiler, compiled: known }: Loaded,
  constraint: string,
): Promise<CompiledGrammar> {
  const compiled = known.get(constraint) ?? (await compiler.compileStructuralTag(constraint));
  // Whoever makes a matcher asks for this, and would leave a new copy behind each time.
  compiled.tokenizerInfo = () => info;
  known.delete(constraint);
  known.set(constraint, compiled);
  for (const [oldest, grammar] of known) {
    if (known.size <= MAX_COMPILED) break;
    known.delete(oldest);
    grammar.dispose();
  }
  return compiled;
}
