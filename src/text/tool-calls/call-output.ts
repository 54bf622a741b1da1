/** Collects the events of a parser: numbers the calls and keeps white space around them out of the content. */
import type { CallSink } from './call-object.ts';
import type { CallEvent } from './contract.ts';

export class CallOutput implements CallSink {
  readonly #hidden: ReadonlySet<string>;
  #events: CallEvent[] = [];
  #numCalls = 0;
  /** White space that counts only if more content follows. */
  #space = '';
  #hasContent = false;

  /** `hidden`: marker texts that never stand in content. */
  constructor(hidden: ReadonlySet<string>) {
    this.#hidden = hidden;
  }

  content(text: string): void {
    const all = this.#space + this.#visible(text);
    const body = all.trimEnd();
    this.#space = all.slice(body.length);
    if (body === '') return;
    this.#push(!this.#hasContent && this.#numCalls > 0 ? body.trimStart() : body);
    this.#hasContent = true;
  }

  call(name: string): void {
    this.#events.push({ type: 'call', index: this.#numCalls++, name });
  }

  arguments(text: string): void {
    this.#events.push({ type: 'arguments', index: this.#numCalls - 1, text });
  }

  /** The events since the last time. */
  take(): CallEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Without a call, nothing of the text is left out. */
  finish(): CallEvent[] {
    if (this.#numCalls === 0) this.#push(this.#space);
    return this.take();
  }

  #push(text: string): void {
    if (text !== '') this.#events.push({ type: 'content', text });
  }

  #visible(text: string): string {
    let visible = text;
    for (const marker of this.#hidden) visible = visible.replaceAll(marker, '');
    return visible;
  }
}
