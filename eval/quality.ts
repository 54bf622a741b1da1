/** Quality of one setting: exact answers, likeness of copies, and perplexity. Requests run in batches. */
import { createPolicies, type ModelShape, type PruningChoice } from '../src/policies/index.ts';
import type { Driver, Reply } from './driver.ts';
import { forcedContinuation } from './forcing.ts';
import { QUESTION_SETS, type Passage, type Question, type QuestionSet, type TextLayer } from './items.ts';
import { perplexity, scoreAnswers, type Answer, type GroupScore } from './scores.ts';
import type { Setting } from './settings.ts';
import { similarity } from './similarity.ts';

export interface EvalData {
  readonly questions: readonly Question[];
  readonly passages: readonly Passage[];
}

/** Log-probabilities are natural. Null = the policies do not act while a prompt is scored. */
export interface BooksScore {
  /** A token, over whole passages given as prompts. */
  readonly perplexity: number | null;
  readonly bits_per_byte: number | null;
  readonly tokens: number | null;
  /** A token, over forced continuations of cut passages. */
  readonly continuation_perplexity: number;
  readonly continuation_tokens: number;
}

/** Of the sets that were asked for: scores by group, and `all`. */
export interface Quality extends Partial<Record<QuestionSet, Record<string, GroupScore>>> {
  readonly books?: BooksScore;
}

/** Where passages are cut, as shares of their tokens. */
const CUTS = [0.5, 0.625, 0.75, 0.875];

/** Requests that {@link measureQuality} runs, for a progress line. */
export function countRequests(
  { questions, passages }: EvalData,
  choice: PruningChoice | null,
  shape: ModelShape,
) {
  return questions.length + passages.length * (CUTS.length + (actsOnScoring(choice, shape) ? 1 : 0));
}

/** Whether scoring a prompt shows what the policies do: they must act on every row of it, not on its end only. */
export function actsOnScoring(choice: PruningChoice | null, shape: ModelShape): boolean {
  if (choice === null) return true;
  const { tokens, kv } = createPolicies(choice, shape);
  return tokens === null && (kv === null || (kv.kind === 'split' && kv.prefill === 'streaming'));
}

/** @throws SettingError */
export async function measureQuality(
  driver: Driver,
  setting: Setting,
  { questions, passages }: EvalData,
  text: TextLayer,
  onReply?: () => void,
): Promise<Quality> {
  const scores: [string, unknown][] = [];
  for (const set of QUESTION_SETS) {
    const chosen = questions.filter((question) => question.set === set);
    if (chosen.length === 0) continue;
    const texts = await answer(driver, chosen, setting.choice, text, onReply);
    scores.push([set, scoreAnswers(chosen.map((question, i) => judge(question, texts[i]!)))]);
  }
  if (passages.length > 0)
    scores.push(['books', await scoreBooks(driver, passages, setting.choice, onReply)]);
  return Object.fromEntries(scores);
}

/** Greedy replies to questions, as texts, untrimmed. */
export async function answer(
  driver: Driver,
  questions: readonly Question[],
  choice: PruningChoice | null,
  text: TextLayer,
  onReply?: () => void,
): Promise<string[]> {
  const work = questions.map(({ promptIds, maxTokens }) => ({
    promptIds,
    maxTokens,
    stopTokenIds: text.endOfSequenceIds,
  }));
  const { replies } = await driver.run(work, choice, onReply);
  return replies.map(({ ids }) => text.tokenizer.decode(ids));
}

export function judge(question: Question, reply: string): Answer {
  const copies = question.set === 'copy';
  return {
    groups: question.groups,
    isExact: (copies ? reply : reply.trim()) === question.answer,
    similarity: copies ? similarity(reply, question.answer) : null,
  };
}

async function scoreBooks(
  driver: Driver,
  passages: readonly Passage[],
  choice: PruningChoice | null,
  onReply?: () => void,
): Promise<BooksScore> {
  const scores = actsOnScoring(choice, driver.model.info.shape)
    ? await scorePrompts(driver, passages, choice, onReply)
    : { perplexity: null, bits_per_byte: null, tokens: null };
  const work = passages.flatMap(({ ids }) =>
    CUTS.map((cut) => forcedContinuation(ids, Math.floor(cut * ids.length))),
  );
  const { replies } = await driver.run(work, choice, onReply);
  const logprobs = replies.flatMap((reply) => reply.logprobs);
  return {
    ...scores,
    continuation_perplexity: perplexity(logprobs),
    continuation_tokens: logprobs.length,
  };
}

async function scorePrompts(
  driver: Driver,
  passages: readonly Passage[],
  choice: PruningChoice | null,
  onReply?: () => void,
) {
  const work = passages.map(({ ids }) => ({ promptIds: ids, maxTokens: 0, promptLogprobs: 0 }));
  const { replies } = await driver.run(work, choice, onReply);
  const logprobs = replies.flatMap((reply: Reply) => reply.promptLogprobs.filter((value) => value !== null));
  const numBytes = passages.reduce((sum, passage) => sum + passage.numBytes, 0);
  const bits = -logprobs.reduce((sum, value) => sum + value, 0) / Math.LN2;
  return { perplexity: perplexity(logprobs), bits_per_byte: bits / numBytes, tokens: logprobs.length };
}
