/** The evaluation sets: reads the files of this folder and turns their questions into token ids. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { invariant } from '../src/errors.ts';
import { readModel } from '../src/server/model.ts';
import { encodeChat } from '../src/text/encode-chat.ts';
import { readModelJson } from '../src/text/model-file.ts';

export const QUESTION_SETS = ['recall', 'turns', 'long', 'copy'] as const;
export type QuestionSet = (typeof QUESTION_SETS)[number];
export const SETS = [...QUESTION_SETS, 'books'] as const;
export type SetName = (typeof SETS)[number];

const FILES: Readonly<Record<SetName, string>> = {
  recall: 'recall/recall.jsonl',
  turns: 'recall/turns.jsonl',
  long: 'recall/long.jsonl',
  copy: 'copy/copy.jsonl',
  books: 'books/books.jsonl',
};

const message = z.object({ role: z.string(), content: z.string() });
const questionSchema = z.object({
  id: z.string(),
  messages: z.array(message),
  answer: z.string(),
  max_new_tokens: z.int().min(1),
  /** Of recall, turns and long: the length that the prompt stays just below. */
  bucket: z.int().optional(),
  /** Of copy: `copy` or `edit`, and `prose` or `code`. */
  task: z.string(),
  content: z.string().optional(),
});
const passageSchema = z.object({ id: z.string(), text: z.string() });

export interface Question {
  readonly id: string;
  readonly set: QuestionSet;
  /** Rows of the score table that it counts in: its length, or its task and the task on this kind of text. */
  readonly groups: readonly string[];
  readonly promptIds: Int32Array;
  readonly answer: string;
  readonly maxTokens: number;
}

export interface Passage {
  readonly id: string;
  /** Begins with the BOS token, if the model has one. */
  readonly ids: Int32Array;
  /** UTF-8 bytes of the text. */
  readonly numBytes: number;
}

/** Tokenizer, chat template and end-of-sequence ids of a model, and what a bare text begins with. */
export interface TextLayer extends ReturnType<typeof readModel> {
  readonly bosIds: readonly number[];
}

/** @throws AppError `startup` naming the file that is missing or cannot be used */
export function readTextLayer(modelDir: string): TextLayer {
  const model = readModel(modelDir, modelDir);
  const config = readModelJson(modelDir, 'config.json', z.object({ bos_token_id: z.int().nullish() }));
  const { prefixIds } = model.tokenizer;
  const bosIds = prefixIds.length > 0 ? prefixIds : [config?.bos_token_id ?? []].flat();
  return { ...model, bosIds };
}

function readLines<T>(set: SetName, schema: z.ZodType<T>): T[] {
  const lines = readFileSync(join(import.meta.dirname, FILES[set]), 'utf8')
    .trim()
    .split('\n');
  return lines.map((line) => schema.parse(JSON.parse(line)));
}

/** The first `limit` of each length, or of each task on each kind of text. */
export function readQuestions(set: QuestionSet, text: TextLayer, limit: number): Question[] {
  const counts = new Map<string, number>();
  const chosen = readLines(set, questionSchema).filter((line) => {
    const group = groupsOf(line).at(-1) ?? '';
    const count = counts.get(group) ?? 0;
    counts.set(group, count + 1);
    return count < limit;
  });
  return chosen.map((line) => ({
    id: line.id,
    set,
    groups: groupsOf(line),
    promptIds: Int32Array.from(encodeChat(text.tokenizer, text.template, line.messages)),
    answer: line.answer,
    maxTokens: line.max_new_tokens,
  }));
}

function groupsOf({ bucket, task, content }: z.infer<typeof questionSchema>): string[] {
  if (bucket !== undefined) return [String(bucket)];
  invariant(content !== undefined, 'a question without a bucket names the kind of its text');
  return [task, `${task}/${content}`];
}

export function readPassages(text: TextLayer, limit: number): Passage[] {
  return readLines('books', passageSchema)
    .slice(0, limit)
    .map(({ id, text: words }) => ({
      id,
      ids: Int32Array.from([...text.bosIds, ...text.tokenizer.encode(words, { addSpecialTokens: false })]),
      numBytes: Buffer.byteLength(words),
    }));
}
