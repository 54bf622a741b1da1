/** A response's reply: its events as they become due, or what they come to in the end. */
import { invariant } from '../../errors.ts';
import type { ReplyReason } from '../choice-text.ts';
import type { ServerContext } from '../context.ts';
import type { GenerationEvent, GenerationJob } from '../generation-job.ts';
import { chatLogprobs } from '../logprobs.ts';
import type { ChatContentLogprob } from '../logprobs.ts';
import type { LoadedModel } from '../model.ts';
import { observedEvents } from '../observed-events.ts';
import type { Call, Generation } from '../operation.ts';
import type { ResponseBody } from '../schemas/responses.ts';
import { ResponseEvents } from './events.ts';
import type { ResponseEvent } from './events.ts';
import type { Conversation } from './input.ts';
import type { OutputItem } from './output-items.ts';
import { endedResponse, responseInProgress } from './response-object.ts';
import type { ResponseMemory } from './store.ts';

type Delta = Extract<GenerationEvent, { type: 'delta' }>;

export interface ResponseReplyOptions {
  readonly fields: ResponseBody;
  readonly model: LoadedModel;
  readonly job: GenerationJob;
  readonly conversation: Conversation;
  readonly memory: ResponseMemory;
  readonly ignoredFields: readonly string[];
}

export function responseReply(context: ServerContext, call: Call, options: ResponseReplyOptions): Generation {
  const { fields, model, job, ignoredFields } = options;
  const reply = new ResponseReply(call.client, options);
  const events = observedEvents(context, call, model, job);
  const stream = () => reply.run(events);
  return {
    isStreamed: fields.stream ?? false,
    ignoredFields,
    stream,
    async whole() {
      let last: ResponseEvent | null = null;
      for await (const event of stream()) last = event;
      invariant(last, 'a response has events');
      return last.response as object;
    },
    errorObject: (error) => reply.events.error(error),
  };
}

class ResponseReply {
  readonly events = new ResponseEvents();
  readonly #client: string | null;
  readonly #options: ResponseReplyOptions;
  readonly #createdSeconds = Math.floor(Date.now() / 1000);
  #reason: ReplyReason = 'stop';

  constructor(client: string | null, options: ResponseReplyOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** Nothing is said before the engine does: until then the request may yet be refused. */
  async *run(generated: AsyncIterable<GenerationEvent>): AsyncGenerator<ResponseEvent, void, void> {
    let isCreated = false;
    for await (const event of generated) {
      if (!isCreated) yield* this.#created();
      isCreated = true;
      yield* this.#handle(event);
    }
  }

  *#created(): Generator<ResponseEvent, void, void> {
    const response = responseInProgress(this.#settings());
    yield this.events.lifecycle('response.created', response);
    yield this.events.lifecycle('response.in_progress', response);
  }

  *#handle(event: GenerationEvent): Generator<ResponseEvent, void, void> {
    if (event.type === 'delta') {
      yield* this.#delta(event);
    } else if (event.type === 'finish') {
      this.#reason = event.reason;
      yield* this.events.end(event.reason === 'length' ? 'incomplete' : 'completed');
    } else if (event.type === 'end') {
      const { output } = this.events;
      const response = endedResponse(this.#settings(), output, this.#reason, event);
      // Before the client hears of it, who may continue it at once.
      this.#remember(output);
      yield this.events.lifecycle(
        this.#reason === 'length' ? 'response.incomplete' : 'response.completed',
        response,
      );
    }
  }

  /** Log-probabilities stand with text, as OpenAI has none of reasoning and calls. */
  *#delta(event: Delta): Generator<ResponseEvent, void, void> {
    let logprobs = this.#logprobs(event);
    for (const part of event.parts) {
      if (part.type === 'content') {
        yield* this.events.text(part.text, logprobs);
        logprobs = [];
      } else if (part.type === 'reasoning') yield* this.events.reasoning(part.text);
      else if (part.type === 'call') yield* this.events.call(part.name, part.id);
      else yield* this.events.callArguments(part.text);
    }
    // Tokens without text, such as the end of sequence where that is ignored.
    if (event.parts.length === 0 && logprobs.length > 0 && this.events.canTakeText)
      yield* this.events.text('', logprobs);
  }

  #remember(output: readonly OutputItem[]): void {
    const { memory, fields, job, conversation } = this.#options;
    const turn = { input: conversation.input, output: output.map(withoutLogprobs) };
    memory.add(
      { id: job.id, client: this.#client, turns: [...conversation.earlier, turn] },
      fields.store ?? true,
    );
  }

  #logprobs({ tokens }: Delta): ChatContentLogprob[] {
    const { model, fields } = this.#options;
    const asIds = fields.return_tokens_as_token_ids ?? false;
    return chatLogprobs({ tokenizer: model.tokenizer, asIds }, tokens);
  }

  #settings() {
    const { fields, model, job } = this.#options;
    return { fields, model, job, createdSeconds: this.#createdSeconds };
  }
}

/** A continued conversation needs the text alone. */
function withoutLogprobs(item: OutputItem): OutputItem {
  if (item.type !== 'message') return item;
  return { ...item, content: item.content.map((part) => ({ ...part, logprobs: [] })) };
}
