/** The state of one generation job: engine events in, generation events out. */
import { AppError, invariant } from '../errors.ts';
import type { EngineEvent, GenerationRequest } from '../runtime/protocol.ts';
import { ChoiceText } from './choice-text.ts';
import type { Released, ReplyReason } from './choice-text.ts';
import type { GenerationEvent, GenerationJob, PromptLogprobs } from './generation-job.ts';
import type { LoadedModel } from './model.ts';
import { sumPruning } from '../runtime/pruning/report.ts';
import { sumTimings, sumUsage } from './usage.ts';

type Of<T extends EngineEvent['type']> = Extract<EngineEvent, { type: T }>;

interface PromptState {
  readonly request: GenerationRequest;
  readonly choices: readonly { readonly text: ChoiceText; hasStarted: boolean }[];
  logprobs: PromptLogprobs | null;
  progress: Of<'progress'> | null;
  done: Of<'done'> | null;
}

/** Told of every token that counts, with its arrival in ms of this thread's clock. */
export type OnToken = (choice: number, arrivedMs: number) => void;

export class GenerationRun {
  readonly #model: LoadedModel;
  readonly #prompts: readonly PromptState[];
  readonly #numChoices: number;
  readonly #onToken: OnToken;
  #numUnfinished: number;

  constructor(
    model: LoadedModel,
    job: GenerationJob,
    requests: readonly GenerationRequest[],
    onToken: OnToken,
  ) {
    this.#model = model;
    this.#onToken = onToken;
    this.#numChoices = job.numChoices;
    this.#numUnfinished = requests.length * job.numChoices;
    this.#prompts = requests.map((request) => ({
      request,
      choices: Array.from({ length: job.numChoices }, () => ({
        text: new ChoiceText(model.tokenizer, request.promptIds, job),
        hasStarted: false,
      })),
      logprobs: null,
      progress: null,
      done: null,
    }));
  }

  /** @throws AppError for an `error` event */
  *handle(promptIndex: number, event: EngineEvent): Generator<GenerationEvent, void, void> {
    const prompt = this.#prompts[promptIndex];
    invariant(prompt, `prompt ${promptIndex} exists`);
    switch (event.type) {
      case 'started':
        yield {
          type: 'prefill',
          promptIndex,
          cachedTokens: event.cachedTokens,
          arrivedMs: event.arrivedMs ?? performance.now(),
        };
        break;
      case 'progress':
        prompt.progress = event;
        yield this.#progress(event.timeMs);
        break;
      case 'prompt_logprobs':
        prompt.logprobs = event.logprobs;
        break;
      case 'token':
        yield* this.#token(promptIndex, prompt, event);
        break;
      case 'finished':
        yield* this.#finish(promptIndex, prompt, event);
        break;
      case 'done':
        prompt.done = event;
        break;
      case 'error':
        throw new AppError(event.code, event.message, { param: event.param });
    }
  }

  end(): GenerationEvent {
    const done = this.#prompts.map((prompt) => {
      invariant(prompt.done, 'the engine ends every request with done or error');
      return prompt.done;
    });
    const numDropped = this.#prompts
      .flatMap(({ choices }) => choices)
      .reduce((sum, { text }) => sum + text.numDropped, 0);
    const usage = sumUsage(done.map((event) => event.usage));
    return {
      type: 'end',
      usage: { ...usage, completionTokens: usage.completionTokens - numDropped },
      timings: sumTimings(done.map((event) => event.timings)),
      pruning: sumPruning(done.map((event) => event.pruning)),
    };
  }

  *#token(
    promptIndex: number,
    prompt: PromptState,
    event: Of<'token'>,
  ): Generator<GenerationEvent, void, void> {
    const { text } = this.#choice(prompt, event.choice);
    const wasFinished = text.isFinished;
    if (!wasFinished)
      this.#onToken(this.#index(promptIndex, event.choice), event.arrivedMs ?? performance.now());
    yield* this.#start(promptIndex, prompt, event.choice);
    const released = text.push(event.tokenId, event.logprobs);
    yield* this.#delta(promptIndex, event.choice, released);
    if (wasFinished || text.finishReason === null) return;
    this.#model.engine.stopChoice(prompt.request.id, event.choice);
    yield this.#finishEvent(promptIndex, event.choice, text.finishReason);
  }

  *#finish(
    promptIndex: number,
    prompt: PromptState,
    { choice, reason, stopTokenId }: Of<'finished'>,
  ): Generator<GenerationEvent, void, void> {
    const { text } = this.#choice(prompt, choice);
    if (text.isFinished) {
      if (stopTokenId !== null) text.numDropped++;
      return;
    }
    yield* this.#start(promptIndex, prompt, choice);
    yield* this.#delta(promptIndex, choice, text.finish(reason));
    yield this.#finishEvent(promptIndex, choice, text.finishReason ?? reason);
  }

  *#start(promptIndex: number, prompt: PromptState, choice: number): Generator<GenerationEvent, void, void> {
    const state = this.#choice(prompt, choice);
    if (state.hasStarted) return;
    state.hasStarted = true;
    yield { type: 'start', choice: this.#index(promptIndex, choice), promptLogprobs: prompt.logprobs };
  }

  *#delta(promptIndex: number, choice: number, released: Released): Generator<GenerationEvent, void, void> {
    if (released.text === '' && released.tokens.length === 0) return;
    yield { type: 'delta', choice: this.#index(promptIndex, choice), ...released };
  }

  #finishEvent(promptIndex: number, choice: number, reason: ReplyReason): GenerationEvent {
    this.#numUnfinished--;
    return {
      type: 'finish',
      choice: this.#index(promptIndex, choice),
      reason,
      isLast: this.#numUnfinished === 0,
    };
  }

  /** Over all prompts of the job. */
  #progress(timeMs: number): GenerationEvent {
    const sum = { total: 0, cached: 0, processed: 0 };
    for (const { progress, request } of this.#prompts) {
      sum.total += progress?.total ?? request.promptIds.length;
      sum.cached += progress?.cached ?? 0;
      sum.processed += progress?.processed ?? 0;
    }
    return { type: 'progress', ...sum, timeMs };
  }

  #choice(prompt: PromptState, index: number): { readonly text: ChoiceText; hasStarted: boolean } {
    const choice = prompt.choices[index];
    invariant(choice, `choice ${index} exists`);
    return choice;
  }

  #index(promptIndex: number, choice: number): number {
    return promptIndex * this.#numChoices + choice;
  }
}
