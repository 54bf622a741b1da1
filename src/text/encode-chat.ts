/** Conversations to token ids: control tokens come from the template alone, never from what a client wrote. */
import { AppError } from '../errors.ts';
import type { ChatMessage, ChatOptions, ChatTemplate, ContentPart } from './chat-template.ts';
import type { ControlTextFinder } from './control-text.ts';
import type { EncodeOptions, Tokenizer } from './tokenizer.ts';

export interface EncodeChatOptions extends ChatOptions, EncodeOptions {
  /** Sees the prompt's text before the work of encoding it, and may throw. */
  readonly onRendered?: (text: string) => void;
}

/**
 * The prompt of a conversation. A template may trim, cut and rearrange what a client wrote, so the client's text cannot
 * be found again in what was rendered. Therefore text that names a control token is disguised before rendering - its
 * first character becomes a stand-in that no string of the request contains - and gets its character back after the
 * template's own control tokens were found.
 * @throws AppError `invalid_request` if the template refuses the messages, or values are nested too deep.
 */
export function encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  { onRendered, maxIds, ...options }: EncodeChatOptions = {},
): number[] {
  const shaped = messages.map((message, i) => shapeContent(message, template, `messages[${i}].content`));
  const sent = { messages: shaped, tools: options.tools, chat_template_kwargs: options.kwargs };
  const disguise = new Disguise(tokenizer.controlText, sent);
  const rendered = template.render(disguise.apply(shaped), {
    ...options,
    tools: disguise.apply(options.tools ?? null),
    kwargs: disguise.apply(options.kwargs ?? {}),
  });
  onRendered?.(disguise.remove(rendered));
  const ids = tokenizer.encodeTemplated(rendered, (text) => disguise.remove(text), { maxIds });
  // Most templates write the BOS token themselves; it must stand there once. Nothing may follow the reply's header.
  const { prefixIds } = tokenizer;
  return prefixIds.every((id, i) => ids[i] === id) ? ids : [...prefixIds, ...ids];
}

/** Text parts become one text, joined by newlines; a list that holds images stays a list. */
function shapeContent(message: ChatMessage, template: ChatTemplate, param: string): ChatMessage {
  const { content } = message;
  if (content == null) return message;
  const texts = typeof content === 'string' ? [content] : content.map(textOf);
  if (!texts.includes(null)) {
    const text = texts.join('\n');
    return { ...message, content: template.needsParts ? [{ type: 'text', text }] : text };
  }
  if (!template.takesParts) {
    throw new AppError(
      'invalid_request',
      'expected text only: the chat template has no place for other parts',
      { param },
    );
  }
  const parts = content as readonly ContentPart[];
  return { ...message, content: parts.map((part) => (part.type === 'image_url' ? { type: 'image' } : part)) };
}

function textOf(part: ContentPart): string | null {
  return part.type === 'text' && typeof part.text === 'string' ? part.text : null;
}

/** Deeper values than any tool's schema; they would overflow the stack of the template's interpreter. */
const MAX_DEPTH = 200;
/** Characters without a meaning, so that no template treats them specially. */
const STAND_INS = { first: 0xe000, last: 0xf8ff };

class Disguise {
  readonly #finder: ControlTextFinder;
  readonly #standIns = new Map<string, string>();

  /** `sent`: whatever the client sent, by field. */
  constructor(finder: ControlTextFinder, sent: Readonly<Record<string, unknown>>) {
    this.#finder = finder;
    const strings: string[] = [];
    for (const [field, value] of Object.entries(sent)) collectStrings(value, strings, field);
    const hidden = new Set(strings.flatMap((text) => finder.starts(text).map((start) => text.charAt(start))));
    if (hidden.size === 0) return;
    const taken = new Set(
      strings.flatMap((text) => text.match(/[\uE000-\uF8FF]|\\u[ef][0-9a-f]{3}/gu) ?? []),
    );
    let next = STAND_INS.first;
    for (const character of hidden) {
      let standIn: string;
      do {
        if (next > STAND_INS.last) {
          const message = 'expected text that leaves some private-use character unused, got all of them';
          throw new AppError('invalid_request', message, { param: 'messages' });
        }
        standIn = String.fromCharCode(next++);
      } while (taken.has(standIn) || taken.has(jsonEscape(standIn)));
      this.#standIns.set(character, standIn);
    }
  }

  /** A copy of `value` with every string disguised, keys included. */
  apply<T>(value: T): T {
    return this.#standIns.size === 0 ? value : (this.#applyTo(value) as T);
  }

  /** Undoes the disguise; also where the template wrote it as a JSON escape. */
  remove(text: string): string {
    let plain = text;
    for (const [character, standIn] of this.#standIns) {
      plain = plain.replaceAll(standIn, () => character).replaceAll(jsonEscape(standIn), () => character);
    }
    return plain;
  }

  #applyTo(value: unknown): unknown {
    if (typeof value === 'string') return this.#applyToText(value);
    if (Array.isArray(value)) return value.map((item) => this.#applyTo(item));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [this.#applyToText(key), this.#applyTo(item)]),
    );
  }

  #applyToText(text: string): string {
    let disguised = '';
    let done = 0;
    for (const start of this.#finder.starts(text)) {
      disguised += text.slice(done, start) + (this.#standIns.get(text.charAt(start)) ?? '');
      done = start + 1;
    }
    return disguised + text.slice(done);
  }
}

function jsonEscape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16)}`;
}

/** Appends all strings in `value`, keys included. `field` names the value in an error. */
function collectStrings(value: unknown, strings: string[], field: string, depth = 0): void {
  if (depth > MAX_DEPTH) {
    const message = `expected values nested at most ${MAX_DEPTH} deep, got more`;
    throw new AppError('invalid_request', message, { param: field });
  }
  if (typeof value === 'string') strings.push(value);
  else if (Array.isArray(value)) for (const item of value) collectStrings(item, strings, field, depth + 1);
  else if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      strings.push(key);
      collectStrings(item, strings, field, depth + 1);
    }
  }
}
