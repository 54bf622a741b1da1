/** Who may come in: what would wait beyond the limits of the queue is refused at once. */
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';

/** A request with several prompts counts as many. */
export interface QueueLimits {
  /** Sequences that run at once. */
  readonly maxRunning: number;
  /** Requests that may wait beside them. */
  readonly maxRequests: number;
  /** Prompt tokens that may wait; null = any number. */
  readonly maxTokens: number | null;
  /** Requests of one API key; null = any number. */
  readonly maxPerKey: number | null;
}

/** A request that has been checked and tokenised, and wants to start. */
export interface Arrival {
  /** Length of each prompt. */
  readonly promptTokens: readonly number[];
  /** Whose key it came with; null = no keys are configured. */
  readonly client: string | null;
}

export interface Ticket {
  /** The prefill of a prompt has begun: it waits no more. */
  started(promptIndex: number): void;
  /** The request is over, however it ended. Again, it changes nothing. */
  release(): void;
}

/** Seconds that a refused client is asked to wait, at least and at most. */
const RETRY_SECONDS = { least: 1, most: 60 };
/** Weight of the newest request in the mean time that one takes. */
const NEWEST_WEIGHT = 0.2;

/** Requests of one model, from their admission to their end. */
export class Admission {
  readonly #limits: QueueLimits;
  readonly #numByClient: Map<string, number>;
  readonly #nowMs: () => number;
  #numAdmitted = 0;
  #numWaiting = 0;
  #waitingTokens = 0;
  /** From start to end, the mean of recent requests; null before the first ended. */
  #serviceMs: number | null = null;

  /** @param numByClient requests by API key, shared with the other models of the server */
  constructor(limits: QueueLimits, numByClient = new Map<string, number>(), nowMs = () => performance.now()) {
    this.#limits = limits;
    this.#numByClient = numByClient;
    this.#nowMs = nowMs;
  }

  /**
   * Counts a request in. Its ticket must be released in the end.
   * @throws AppError `queue_full` when it would wait beyond a limit, `invalid_request` when it always would
   */
  admit(arrival: Arrival): Ticket {
    const { promptTokens, client } = arrival;
    this.#refuse(arrival);
    this.#count(client, promptTokens.length);
    this.#numWaiting += promptTokens.length;
    this.#waitingTokens += promptTokens.reduce((sum, length) => sum + length, 0);
    const startedMs = new Map<number, number>();
    const leaveQueue = (promptIndex: number): void => {
      this.#numWaiting--;
      this.#waitingTokens -= promptTokens[promptIndex] ?? 0;
    };
    let isReleased = false;
    return {
      started: (promptIndex) => {
        if (isReleased || startedMs.has(promptIndex)) return;
        startedMs.set(promptIndex, this.#nowMs());
        leaveQueue(promptIndex);
      },
      release: () => {
        if (isReleased) return;
        isReleased = true;
        this.#count(client, -promptTokens.length);
        for (const promptIndex of promptTokens.keys()) {
          const sinceMs = startedMs.get(promptIndex);
          if (sinceMs === undefined) leaveQueue(promptIndex);
          else this.#learn(this.#nowMs() - sinceMs);
        }
      },
    };
  }

  #refuse({ promptTokens, client }: Arrival): void {
    const { maxRunning, maxRequests, maxTokens, maxPerKey } = this.#limits;
    const count = promptTokens.length;
    const capacity = maxRunning + maxRequests;
    checkEver(count, capacity, 'queue.max_running + queue.max_requests');
    const total = this.#numAdmitted + count;
    if (total > capacity)
      throw this.#full(
        `${capacity} requests at once (queue.max_running + queue.max_requests), got ${total}`,
        total - capacity,
      );
    const tokens = promptTokens.reduce((sum, length) => sum + length, this.#waitingTokens);
    // Whoever waits for nobody else holds up nobody.
    if (maxTokens !== null && this.#numWaiting > 0 && tokens > maxTokens) {
      const numToStart = ((tokens - maxTokens) * this.#numWaiting) / Math.max(1, this.#waitingTokens);
      throw this.#full(`${maxTokens} prompt tokens that wait (queue.max_tokens), got ${tokens}`, numToStart);
    }
    if (maxPerKey === null || client === null) return;
    checkEver(count, maxPerKey, 'queue.max_per_key');
    const own = (this.#numByClient.get(client) ?? 0) + count;
    if (own > maxPerKey)
      throw this.#full(
        `${maxPerKey} requests at once of one API key (queue.max_per_key), got ${own}`,
        own - maxPerKey,
      );
  }

  #count(client: string | null, change: number): void {
    this.#numAdmitted += change;
    if (client === null) return;
    const count = (this.#numByClient.get(client) ?? 0) + change;
    if (count === 0) this.#numByClient.delete(client);
    else this.#numByClient.set(client, count);
  }

  #learn(serviceMs: number): void {
    const mean = this.#serviceMs ?? serviceMs;
    this.#serviceMs = mean + NEWEST_WEIGHT * (serviceMs - mean);
  }

  /** @param numToEnd requests that must end before there is room */
  #full(expected: string, numToEnd: number): AppError {
    const numRunning = Math.max(1, this.#numAdmitted - this.#numWaiting);
    const seconds = Math.ceil(((this.#serviceMs ?? 0) * numToEnd) / numRunning / 1000);
    const retryAfterSeconds = Math.min(RETRY_SECONDS.most, Math.max(RETRY_SECONDS.least, seconds));
    return new AppError('queue_full', `the queue is full: expected at most ${expected}`, {
      retryAfterSeconds,
    });
  }
}

/** Trying again would not help. */
function checkEver(numPrompts: number, limit: number, key: string): void {
  if (numPrompts <= limit) return;
  const message = `prompt: expected at most ${limit} prompts in one request (${key}), got ${numPrompts}`;
  throw new AppError('invalid_request', message, { param: 'prompt' });
}

/** The admission of every model of the server. */
export class Admissions {
  readonly #config: Config;
  readonly #byModel = new Map<string, Admission>();
  readonly #numByClient = new Map<string, number>();

  constructor(config: Config) {
    this.#config = config;
  }

  of(modelId: string): Admission {
    const known = this.#byModel.get(modelId);
    if (known !== undefined) return known;
    const { queue, models } = this.#config;
    const limits = {
      maxRunning: models[modelId]?.queue?.max_running ?? queue.max_running,
      maxRequests: queue.max_requests,
      maxTokens: queue.max_tokens,
      maxPerKey: queue.max_per_key,
    };
    const admission = new Admission(limits, this.#numByClient);
    this.#byModel.set(modelId, admission);
    return admission;
  }
}
