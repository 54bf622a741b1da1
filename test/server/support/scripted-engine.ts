/** An engine that plays a script, for what a real model cannot be made to do: errors, pauses, chosen tokens. */
import type {
  Engine,
  EngineEvent,
  EngineStats,
  GenerationRequest,
  ModelInfo,
  PruningReport,
} from '../../../src/runtime/protocol.ts';

type Script = (
  request: GenerationRequest,
  engine: ScriptedEngine,
) => AsyncIterable<EngineEvent> | Iterable<EngineEvent>;

export class ScriptedEngine implements Engine {
  readonly model: ModelInfo;
  isReady = true;
  lastStats: EngineStats | null = null;
  readonly requests: GenerationRequest[] = [];
  /** Ids of requests that ended early: aborted, or their iterator left. */
  readonly cancelled: string[] = [];
  readonly stopped: [string, number][] = [];
  numEvents = 0;
  readonly #script: Script;

  constructor(
    script: Script,
    {
      contextLength = 8192,
      gates = null,
    }: { contextLength?: number; gates?: ModelInfo['shape']['gates'] } = {},
  ) {
    this.#script = script;
    const layer = { queryHeads: 8, kvHeads: 4, hasMlp: true };
    const shape = { layers: Array.from({ length: 6 }, () => layer), gates };
    this.model = { contextLength, vocabSize: 1536, shape };
  }

  async *generate(request: GenerationRequest, signal?: AbortSignal): AsyncGenerator<EngineEvent> {
    this.requests.push(request);
    let hasEnded = false;
    const abort = () => {
      if (!hasEnded) this.cancelled.push(request.id);
      hasEnded = true;
    };
    signal?.addEventListener('abort', abort);
    try {
      for await (const event of this.#script(request, this)) {
        if (hasEnded) return;
        this.numEvents++;
        if (event.type === 'done' || event.type === 'error') hasEnded = true;
        yield event;
      }
    } finally {
      abort();
    }
  }

  stopChoice(requestId: string, choice: number): void {
    this.stopped.push([requestId, choice]);
  }

  stats(): Promise<EngineStats> {
    return Promise.reject(new Error('not scripted'));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

export function token(tokenId: number, choice = 0): EngineEvent {
  return { type: 'token', choice, tokenId, logprobs: null };
}

export function finished(reason: 'stop' | 'length' = 'stop', choice = 0): EngineEvent {
  return { type: 'finished', choice, reason, stopTokenId: null };
}

export function done(
  request: GenerationRequest,
  completionTokens: number,
  pruning: PruningReport | null = null,
): EngineEvent {
  const usage = { promptTokens: request.promptIds.length, cachedTokens: 0, completionTokens };
  return {
    type: 'done',
    usage,
    timings: { queueMs: 1, prefillMs: 20, ttftMs: 25, decodeMs: 100 },
    pruning,
  };
}

/** Every choice says these tokens. */
export function saying(ids: readonly number[], reason: 'stop' | 'length' = 'stop'): Script {
  return function* (request) {
    for (let choice = 0; choice < request.numChoices; choice++) {
      for (const id of ids) yield token(id, choice);
      yield finished(reason, choice);
    }
    yield done(request, ids.length * request.numChoices);
  };
}
