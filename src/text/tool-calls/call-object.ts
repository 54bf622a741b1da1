/** Reads `{"name": ..., "arguments": {...}}` as it arrives, passing the arguments on before they are whole. */
import { isJsonSpace, JsonValueScanner } from './json-value.ts';

const NAME_KEY = 'name';
/** What models call them. */
const ARGUMENT_KEYS: ReadonlySet<string> = new Set(['arguments', 'parameters']);
/** JSON writes them as escapes; one in a name is a sign that its quotation mark is missing. */
const CONTROL_CHARACTER = /\p{Cc}/u;

export interface CallSink {
  call(name: string): void;
  arguments(text: string): void;
}

type State = 'object' | 'key' | 'key text' | 'colon' | 'value' | 'value text' | 'next' | 'ended';
type Role = 'name' | 'arguments' | 'arguments as text' | 'none';

export class CallObject {
  readonly #sink: CallSink;
  readonly #accepts: (name: string) => boolean;
  #state: State = 'object';
  #scanner = new JsonValueScanner();
  #captured = '';
  #key = '';
  #role: Role = 'none';
  #name: string | null = null;
  /** Arguments that wait for the name; null = none were read. */
  #waiting: string | null = null;
  /** The text so far, until the call is told of. */
  #text = '';
  hasStarted = false;

  /** `accepts`: whether a name can be that of a call. */
  constructor(sink: CallSink, accepts: (name: string) => boolean = () => true) {
    this.#sink = sink;
    this.#accepts = accepts;
  }

  get hasEnded(): boolean {
    return this.#state === 'ended';
  }

  /** A marker here is part of what the model says. */
  get isInString(): boolean {
    return !this.hasEnded && this.#scanner.isInString;
  }

  /** What was read, if it is no call (yet). */
  get text(): string {
    return this.hasStarted ? '' : this.#text;
  }

  /** Returns how much belongs to the object; less than all once it has ended. It then was a call, or `hasStarted` is false. */
  push(text: string): number {
    let at = 0;
    while (at < text.length && !this.hasEnded) at = this.#step(text, at);
    if (!this.hasStarted) this.#text += text.slice(0, at);
    return at;
  }

  #step(text: string, at: number): number {
    const unit = text.charAt(at);
    if (this.#state === 'key text' || this.#state === 'value text') return this.#readValue(text, at);
    if (isJsonSpace(unit)) return at + 1;
    switch (this.#state) {
      case 'object':
        return this.#expect(unit === '{', 'key', at);
      case 'key':
        if (unit === '}') return this.#close(at);
        if (unit !== '"') return this.#end(at);
        this.#begin('key text', 'none');
        return at;
      case 'colon':
        return this.#expect(unit === ':', 'value', at);
      case 'value':
        this.#begin('value text', this.#roleOf(unit));
        if (this.#role === 'arguments') this.#waiting = '';
        return at;
      default:
        return unit === '}' ? this.#close(at) : this.#expect(unit === ',', 'key', at);
    }
  }

  #expect(isThere: boolean, next: State, at: number): number {
    if (!isThere) return this.#end(at);
    this.#state = next;
    return at + 1;
  }

  #end(at: number): number {
    this.#state = 'ended';
    return at;
  }

  #begin(state: State, role: Role): void {
    this.#state = state;
    this.#role = role;
    this.#scanner = new JsonValueScanner();
    this.#captured = '';
  }

  #roleOf(unit: string): Role {
    if (this.#key === NAME_KEY && this.#name === null) return 'name';
    if (!ARGUMENT_KEYS.has(this.#key) || this.#waiting !== null) return 'none';
    return unit === '{' ? 'arguments' : 'arguments as text';
  }

  #readValue(text: string, start: number): number {
    const at = this.#scanner.push(text, start);
    const read = text.slice(start, at);
    if (this.#role === 'arguments') {
      this.#pass(read);
    } else if (this.#state === 'key text' || this.#role !== 'none') {
      if (CONTROL_CHARACTER.test(read)) return this.#end(at);
      this.#captured += read;
    }
    if (this.#scanner.state === 'failed') return this.#end(at);
    if (this.#scanner.state === 'done' && !this.#finishValue()) return this.#end(at);
    return at;
  }

  /** False if the value rules out that this is a call. */
  #finishValue(): boolean {
    const wasKey = this.#state === 'key text';
    this.#state = wasKey ? 'colon' : 'next';
    if (this.#role === 'arguments' || (!wasKey && this.#role === 'none')) return true;
    if (this.#role === 'arguments as text' && this.#captured === 'null') return true;
    const value = parseString(this.#captured);
    if (value === null) return false;
    if (wasKey) {
      this.#key = value;
    } else if (this.#role === 'name') {
      if (value === '' || !this.#accepts(value)) return false;
      this.#name = value;
      if (this.#waiting !== null) this.#pass('');
    } else {
      this.#waiting = '';
      this.#pass(value);
    }
    return true;
  }

  /** The object is whole; a call may have left out its arguments. */
  #close(at: number): number {
    if (this.#name !== null && this.#waiting === null) this.#pass('{}');
    this.#state = 'ended';
    return at + 1;
  }

  #pass(text: string): void {
    this.#waiting = (this.#waiting ?? '') + text;
    if (this.#name === null) return;
    if (!this.hasStarted) this.#sink.call(this.#name);
    this.hasStarted = true;
    if (this.#waiting !== '') this.#sink.arguments(this.#waiting);
    this.#waiting = '';
  }
}

function parseString(json: string): string | null {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'string' ? value : null;
  } catch {
    return null;
  }
}
