/** The events of one response, in OpenAI's order: each item opens, grows by deltas and closes before the next opens. */
import { invariant } from '../../errors.ts';
import type { ErrorBody } from '../../errors.ts';
import type { ChatContentLogprob } from '../logprobs.ts';
import { newId } from './output-items.ts';
import type {
  FunctionCallItem,
  ItemStatus,
  MessageItem,
  OutputItem,
  OutputText,
  ReasoningItem,
} from './output-items.ts';

export interface ResponseEvent {
  readonly type: string;
  readonly sequence_number: number;
  readonly [field: string]: unknown;
}

type Events = Generator<ResponseEvent, void, void>;

/** Every method yields the events that became due; events hold copies, so that later ones do not change them. */
export class ResponseEvents {
  /** Items that are closed. */
  readonly output: OutputItem[] = [];
  #open: OutputItem | null = null;
  #numEvents = 0;

  /** Text would go on with what is open, or begin the response. */
  get canTakeText(): boolean {
    return this.#open === null ? this.output.length === 0 : this.#open.type === 'message';
  }

  /** An event of the whole response: created, in progress or ended. */
  lifecycle(type: string, response: object): ResponseEvent {
    return this.#event(type, { response });
  }

  *text(delta: string, logprobs: readonly ChatContentLogprob[] = []): Events {
    const item = yield* this.#message();
    const [part] = item.content;
    invariant(part, 'an open message has a part');
    part.text += delta;
    for (const entry of logprobs) part.logprobs.push(entry);
    yield this.#event('response.output_text.delta', { ...this.#partPlace(item), delta, logprobs });
  }

  *reasoning(delta: string): Events {
    const item = yield* this.#reasoning();
    const [part] = item.content;
    invariant(part, 'open reasoning has a part');
    part.text += delta;
    yield this.#event('response.reasoning_text.delta', { ...this.#partPlace(item), delta });
  }

  /** Begins a call of a function; its arguments follow. */
  *call(name: string, callId: string): Events {
    yield* this.close('completed');
    const item: FunctionCallItem = {
      id: newId('fc_'),
      type: 'function_call',
      status: 'in_progress',
      arguments: '',
      call_id: callId,
      name,
    };
    yield this.#added(item);
  }

  *callArguments(delta: string): Events {
    const item = this.#open;
    invariant(item?.type === 'function_call', 'arguments belong to an open call');
    item.arguments += delta;
    yield this.#event('response.function_call_arguments.delta', { ...this.#place(item), delta });
  }

  /** Closes the open item, if there is one. */
  *close(status: Exclude<ItemStatus, 'in_progress'>): Events {
    const item = this.#open;
    if (item === null) return;
    yield* this.#partsDone(item);
    item.status = status;
    yield this.#event('response.output_item.done', {
      output_index: this.output.length,
      item: structuredClone(item),
    });
    this.output.push(item);
    this.#open = null;
  }

  /** Closes everything; a response that said nothing consists of an empty message. */
  *end(status: Exclude<ItemStatus, 'in_progress'>): Events {
    if (this.#open === null && this.output.length === 0) yield* this.#message();
    yield* this.close(status);
  }

  /** What stands in place of the rest; clients look for the fields at the top or in `error`. */
  error(error: ErrorBody): ResponseEvent {
    const { code, message, param } = error;
    return this.#event('error', { code, message, param, error });
  }

  *#message(): Generator<ResponseEvent, MessageItem, void> {
    if (this.#open?.type === 'message') return this.#open;
    yield* this.close('completed');
    const item: MessageItem = {
      id: newId('msg_'),
      type: 'message',
      status: 'in_progress',
      content: [],
      role: 'assistant',
    };
    yield this.#added(item);
    const part: OutputText = { type: 'output_text', annotations: [], logprobs: [], text: '' };
    item.content.push(part);
    yield this.#event('response.content_part.added', {
      ...this.#partPlace(item),
      part: structuredClone(part),
    });
    return item;
  }

  *#reasoning(): Generator<ResponseEvent, ReasoningItem, void> {
    if (this.#open?.type === 'reasoning') return this.#open;
    yield* this.close('completed');
    const item: ReasoningItem = {
      id: newId('rs_'),
      type: 'reasoning',
      status: 'in_progress',
      summary: [],
      content: [],
    };
    yield this.#added(item);
    const part = { type: 'reasoning_text' as const, text: '' };
    item.content.push(part);
    yield this.#event('response.content_part.added', { ...this.#partPlace(item), part: { ...part } });
    return item;
  }

  *#partsDone(item: OutputItem): Events {
    if (item.type === 'function_call') {
      const { arguments: text, name } = item;
      yield this.#event('response.function_call_arguments.done', {
        ...this.#place(item),
        arguments: text,
        name,
      });
      return;
    }
    const place = this.#partPlace(item);
    for (const part of item.content) {
      const { text } = part;
      const done =
        part.type === 'output_text'
          ? this.#event('response.output_text.done', { ...place, text, logprobs: [...part.logprobs] })
          : this.#event('response.reasoning_text.done', { ...place, text });
      yield done;
      yield this.#event('response.content_part.done', { ...place, part: structuredClone(part) });
    }
  }

  #added(item: OutputItem): ResponseEvent {
    this.#open = item;
    return this.#event('response.output_item.added', {
      output_index: this.output.length,
      item: structuredClone(item),
    });
  }

  #place(item: OutputItem) {
    return { item_id: item.id, output_index: this.output.length };
  }

  /** Items have one part. */
  #partPlace(item: OutputItem) {
    return { ...this.#place(item), content_index: 0 };
  }

  #event(type: string, fields: object): ResponseEvent {
    return { type, sequence_number: this.#numEvents++, ...fields };
  }
}
