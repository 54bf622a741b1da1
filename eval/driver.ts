/** Runs requests through an engine in this process and gathers what each of them brought. */
import { greedyRequest } from '../bench/greedy-request.ts';
import { errorMessage } from '../src/errors.ts';
import type { PruningChoice } from '../src/policies/index.ts';
import { InferenceEngine } from '../src/runtime/engine.ts';
import type { Model } from '../src/runtime/model.ts';
import type { EngineEvent, GenerationRequest } from '../src/runtime/protocol.ts';

/** What differs between the requests of an evaluation. */
export type Work = Pick<GenerationRequest, 'promptIds' | 'maxTokens'> &
  Partial<Pick<GenerationRequest, 'sampling' | 'stopTokenIds' | 'promptLogprobs'>>;

type Done = Extract<EngineEvent, { type: 'done' }>;

/** Of one request that ended well. Log-probabilities are natural, and there only if they were asked for. */
export interface Reply {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  /** One a prompt token; null for the first. */
  readonly promptLogprobs: readonly (number | null)[];
  readonly done: Done;
}

/** Bytes of the KV pool while requests ran: the most after any turn, and those after the last one that held any. */
export interface PoolBytes {
  readonly peak: number;
  readonly end: number;
}

/** A setting that the engine cannot run: measured no further, reported as it is. */
export class SettingError extends Error {}

export interface DriverOptions {
  readonly kvMaxBytes: number;
  readonly maxRunning: number;
}

export class Driver {
  readonly model: Model;
  readonly #options: DriverOptions;
  #engine: InferenceEngine;
  #numRequests = 0;

  constructor(model: Model, options: DriverOptions) {
    this.model = model;
    this.#options = options;
    this.#engine = this.#start();
  }

  #start(): InferenceEngine {
    return new InferenceEngine(this.model, { ...this.#options, prefixCacheMaxBytes: 0 });
  }

  /**
   * Runs requests together under one choice, to their end.
   * @throws SettingError if one of them failed, the engine broke, or it ran them unpruned although pruning was asked
   */
  async run(
    work: readonly Work[],
    pruning: PruningChoice | null,
    onReply: () => void = () => undefined,
  ): Promise<{ replies: Reply[]; pool: PoolBytes }> {
    const records = work.map((item) => this.#submit(item, pruning, onReply));
    const pool = { peak: 0, end: 0 };
    try {
      while (!this.#engine.isIdle) {
        await this.#engine.turn();
        const { kvBytes } = this.#engine.stats();
        pool.peak = Math.max(pool.peak, kvBytes);
        if (kvBytes > 0) pool.end = kvBytes;
      }
    } catch (error) {
      // It is in no known state; the model is.
      this.#engine = this.#start();
      throw new SettingError(`the engine broke: ${errorMessage(error)}`, { cause: error });
    }
    const asked = pruning !== null && Object.keys(pruning.families).length > 0;
    return { replies: records.map((record) => record.reply(asked)), pool };
  }

  #submit(work: Work, pruning: PruningChoice | null, onReply: () => void): Recorder {
    const recorder = new Recorder();
    const request = greedyRequest({ id: `eval-${this.#numRequests++}`, pruning, ...work });
    this.#engine.submit(request, (event) => {
      recorder.take(event);
      if (event.type === 'done') onReply();
    });
    return recorder;
  }
}

/** Listens to the events of one request. */
class Recorder {
  readonly #ids: number[] = [];
  readonly #logprobs: number[] = [];
  #promptLogprobs: (number | null)[] = [];
  #end: Extract<EngineEvent, { type: 'done' | 'error' }> | null = null;

  take(event: EngineEvent): void {
    if (event.type === 'token') {
      this.#ids.push(event.tokenId);
      if (event.logprobs !== null) this.#logprobs.push(event.logprobs.logprob);
    } else if (event.type === 'prompt_logprobs') {
      this.#promptLogprobs = event.logprobs.map((token) => token?.logprob ?? null);
    } else if (event.type === 'done' || event.type === 'error') this.#end = event;
  }

  /** @throws SettingError */
  reply(wasPruningAsked: boolean): Reply {
    const end = this.#end;
    if (end?.type !== 'done') throw new SettingError(end?.message ?? 'the request never ended');
    if (wasPruningAsked && end.pruning === null)
      throw new SettingError('pruning was asked, but the engine reports none');
    return {
      ids: this.#ids,
      logprobs: this.#logprobs,
      promptLogprobs: this.#promptLogprobs,
      done: end,
    };
  }
}
