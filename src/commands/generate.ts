/** `coppice generate`: one prompt on the command line, its completion on standard output. */
import { text } from 'node:stream/consumers';
import type { Command } from 'commander';
import { AppError, errorMessage } from '../errors.ts';
import { encodeChat } from '../text/encode-chat.ts';
import { generate } from '../server/generation.ts';
import { ClientGoneError } from '../server/generation-job.ts';
import type { GenerationEvent, GenerationJob } from '../server/generation-job.ts';
import { createJob } from '../server/job.ts';
import type { LoadedModel } from '../server/model.ts';
import { choosePruning } from '../server/pruning.ts';
import { pruningObject } from '../server/pruning-report.ts';
import { chatCompletionBody } from '../server/schemas/bodies.ts';
import { usageObject, timingsObject } from '../server/usage.ts';
import { firstMistake } from '../validation.ts';
import { findModel, loadModel } from './load.ts';
import { addConfigOptions, readConfig } from './options.ts';

const CONFIG_PATHS = [
  'model',
  'precision',
  'threads',
  'cache_dir',
  'kv.max_bytes',
  'policies.duo_attention.pattern',
];

/** Flags that are request fields; their values are checked by the request's own schema. */
const FIELDS: Readonly<Record<string, string>> = {
  max_tokens: 'most tokens to generate',
  temperature: '0 = always the most probable token',
  top_p: 'sample from this share of the probability',
  top_k: 'sample from this many tokens',
  min_p: 'drop tokens below this share of the best',
  seed: 'same seed, same completion',
};

export function addGenerateCommand(program: Command): void {
  const command = program
    .command('generate')
    .description('complete one prompt')
    .argument('<prompt>', 'the prompt, or - to read it from standard input')
    .option('--raw', 'continue the prompt as it stands, without the chat template')
    .option('--pruning <preset or JSON>', 'what to leave out: a preset, or an object as in requests');
  for (const [field, description] of Object.entries(FIELDS)) {
    command.option(`--${field.replaceAll('_', '-')} <number>`, description);
  }
  addConfigOptions(command, CONFIG_PATHS).action((prompt: string) => run(command, prompt));
}

async function run(command: Command, argument: string): Promise<void> {
  const config = readConfig(command);
  const options: Record<string, string | boolean | undefined> = command.opts();
  const modelDir = await findModel(config);
  const prompt = argument === '-' ? await text(process.stdin) : argument;
  const fields = readFields(options, prompt);
  const pruning = readPruning(options.pruning);
  const model = await loadModel(config, modelDir);
  try {
    await complete(model, { fields, pruning, prompt, isRaw: options.raw === true });
  } catch (error) {
    if (!(error instanceof ClientGoneError)) throw error;
  } finally {
    await model.engine.close();
  }
}

type Fields = ReturnType<typeof readFields>;

/** @throws AppError `startup` naming the flag */
function readFields(options: Record<string, string | boolean | undefined>, prompt: string) {
  const body: Record<string, unknown> = { messages: [{ role: 'user', content: prompt }] };
  for (const field of Object.keys(FIELDS)) {
    const value = options[field.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())];
    if (value !== undefined) body[field] = Number(value);
  }
  const parsed = chatCompletionBody.safeParse(body, { reportInput: true });
  if (parsed.success) return parsed.data;
  const { path, message } = firstMistake(parsed.error);
  throw new AppError('startup', `--${path.replaceAll('_', '-')}: ${message}`);
}

/** A name, or the object that the text holds. @throws AppError `startup` naming the flag */
function readPruning(value: string | boolean | undefined): unknown {
  if (typeof value !== 'string' || !value.trimStart().startsWith('{')) return value;
  try {
    return JSON.parse(value);
  } catch (error) {
    throw new AppError(
      'startup',
      `--pruning: expected a preset's name or valid JSON: ${errorMessage(error)}`,
    );
  }
}

interface Task {
  readonly fields: Fields;
  readonly pruning: unknown;
  readonly prompt: string;
  readonly isRaw: boolean;
}

async function complete(model: LoadedModel, { fields, pruning, prompt, isRaw }: Task): Promise<void> {
  const usesTemplate = !isRaw && model.template.available;
  const job = createJob(fields, model, {
    idPrefix: 'generate-',
    prompts: [
      usesTemplate
        ? encodeChat(model.tokenizer, model.template, [{ role: 'user', content: prompt }])
        : model.tokenizer.encode(prompt),
    ],
    promptParam: 'prompt',
    maxTokens: fields.max_tokens ?? null,
    maxTokensParam: 'max_tokens',
    defaultMaxTokens: model.defaults.maxTokens ?? Number.POSITIVE_INFINITY,
    logprobs: null,
    promptLogprobs: null,
    constraint: null,
    pruning: choosePruning(model, { field: pruning, param: '--pruning' }),
  });
  const abort = new AbortController();
  // A reader such as `head` has seen enough.
  process.stdout.once('error', () => {
    abort.abort();
  });
  for await (const event of generate(model, job, abort.signal)) {
    if (event.type === 'delta') process.stdout.write(event.text);
    if (event.type === 'end') report(job, event);
  }
}

function report(job: GenerationJob, end: Extract<GenerationEvent, { type: 'end' }>): void {
  const usage = usageObject(end.usage);
  const timings = timingsObject(end.timings, end.usage);
  process.stdout.write('\n');
  process.stderr.write(
    `${usage.prompt_tokens} prompt tokens (${usage.prompt_tokens_details.cached_tokens} cached), ` +
      `first token after ${timings.ttft_ms} ms; ` +
      `${usage.completion_tokens} completion tokens, ${timings.tokens_per_second} tokens/s\n`,
  );
  if (job.pruning === null) return;
  process.stderr.write(`pruning: ${JSON.stringify(pruningObject(job.pruning, end.pruning))}\n`);
}
