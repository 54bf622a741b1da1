/** Calls as Mistral's models write them: `[TOOL_CALLS]`, then a JSON list of calls, or a name and its arguments. */
import type { TagFormat } from '@mlc-ai/web-xgrammar';
import type { MarkedPiece } from '../markers.ts';
import { randomText } from './call-id.ts';
import { CallObject } from './call-object.ts';
import type { CallContent, ParserOptions, ToolCallFormat } from './contract.ts';
import { isJsonSpace, JsonValueScanner } from './json-value.ts';
import { MarkedParser } from './marked-parser.ts';

const CALLS = '[TOOL_CALLS]';
const ARGUMENTS = '[ARGS]';
const CALL_ID = '[CALL_ID]';
const MARKERS: readonly string[] = [CALLS, ARGUMENTS, CALL_ID];

const shared = {
  markers: MARKERS,
  createParser: (options: ParserOptions) => new MistralParser(options),
  /** Mistral's templates refuse ids of any other length. */
  newCallId: () => randomText(9),
};

/** `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`; the list ends the reply. */
export const mistral: ToolCallFormat = {
  ...shared,
  name: 'mistral',
  detect: (source) => source.includes(CALLS) && !source.includes(ARGUMENTS),
  grammar: (content, { isRequired, isParallel }) => {
    const list = listTag(content, isParallel);
    if (isRequired) return list;
    return { type: 'triggered_tags', triggers: [CALLS], tags: [list], stop_after_first: true };
  },
};

/** `[TOOL_CALLS]name[ARGS]{...}`, once for each call. */
export const mistralArgs: ToolCallFormat = {
  ...shared,
  name: 'mistral-args',
  detect: (source) => source.includes(CALLS) && source.includes(ARGUMENTS),
  grammar: (content, { isRequired, isParallel }) => {
    const tag = (begin: string): TagFormat => ({ type: 'tag', begin, content: content(ARGUMENTS), end: '' });
    const stop_after_first = !isParallel;
    if (!isRequired)
      return { type: 'triggered_tags', triggers: [CALLS], tags: [tag(CALLS)], stop_after_first };
    // The library takes no empty separator.
    return {
      type: 'sequence',
      elements: [
        { type: 'const_string', value: CALLS },
        {
          type: 'tags_with_separator',
          tags: [tag('')],
          separator: CALLS,
          at_least_one: true,
          stop_after_first,
        },
      ],
    };
  },
};

function listTag(content: CallContent, isParallel: boolean): TagFormat {
  return {
    type: 'tag',
    begin: `${CALLS} [`,
    content: {
      type: 'tags_with_separator',
      tags: [{ type: 'tag', begin: '{"name": "', content: content('", "arguments": '), end: '}' }],
      separator: ', ',
      at_least_one: true,
      stop_after_first: !isParallel,
    },
    end: ']',
  };
}

/**
 * Where the parser stands: in content; behind the marker; before an entry of a list, in it, or behind it; in a name,
 * in an id that the model gave, before or in the arguments.
 */
type Stage = 'content' | 'calls' | 'entry' | 'object' | 'next' | 'name' | 'id' | 'value' | 'arguments';

class MistralParser extends MarkedParser {
  #stage: Stage = 'content';
  /** What will be content if no call comes of it. */
  #pending = '';
  #name = '';
  #object: CallObject | null = null;
  #scanner = new JsonValueScanner();

  constructor({ hidden }: ParserOptions) {
    super(MARKERS, hidden);
  }

  get #isInString(): boolean {
    if (this.#stage === 'object') return this.#object?.isInString === true;
    return this.#stage === 'arguments' && this.#scanner.isInString;
  }

  protected take({ type, text }: MarkedPiece): void {
    if (type === 'marker' && !this.#isInString) {
      this.#marker(text);
      return;
    }
    let rest = text;
    while (rest !== '') rest = rest.slice(this.#read(rest));
  }

  #marker(marker: string): void {
    const isWithinCall = this.#name !== '' && ['name', 'id', 'value'].includes(this.#stage);
    if (marker === CALLS) {
      this.giveUp();
      this.#stage = 'calls';
      this.#pending = marker;
    } else if (isWithinCall) {
      this.#stage = marker === ARGUMENTS ? 'value' : 'id';
      this.#pending += marker;
    } else {
      this.giveUp();
      this.output.content(marker);
    }
  }

  /** How much of the text was read: at least one unit, unless the stage changed. */
  #read(text: string): number {
    switch (this.#stage) {
      case 'content':
        this.output.content(text);
        return text.length;
      case 'object':
        return this.#readObject(text);
      case 'arguments':
        return this.#readArguments(text);
      case 'name':
      case 'id':
        return this.#readName(text);
      default:
        return this.#readBetween(text.charAt(0));
    }
  }

  #readBetween(unit: string): number {
    if (isJsonSpace(unit)) return this.#keep(unit);
    if (this.#stage === 'calls' && unit === '[') {
      this.#stage = 'entry';
      return this.#keep(unit);
    }
    if (this.#stage === 'calls') {
      this.#stage = 'name';
      this.#name = '';
      return 0;
    }
    if (this.#stage === 'value' && unit === '{') {
      this.#beginArguments();
      return 0;
    }
    if (this.#stage === 'next' && unit === ',') {
      this.#stage = 'entry';
      return this.#keep(unit);
    }
    if (this.#stage === 'next' && unit === ']') {
      this.#leave();
      return 1;
    }
    if (this.#stage === 'entry' && unit === '{') {
      this.#stage = 'object';
      this.#object = new CallObject(this.output);
      return 0;
    }
    this.giveUp();
    return 0;
  }

  #keep(text: string): number {
    this.#pending += text;
    return text.length;
  }

  #readObject(text: string): number {
    const object = this.#object;
    if (object === null) return 0;
    const numRead = object.push(text);
    if (object.hasStarted) this.#pending = '';
    if (!object.hasEnded) return numRead;
    if (!object.hasStarted) this.giveUp();
    else this.#stage = 'next';
    return numRead;
  }

  /** A name and what may follow it before the arguments: `[CALL_ID]` and an id, which ours replaces. */
  #readName(text: string): number {
    const end = text.search(/[^\w.-]/);
    const word = end < 0 ? text : text.slice(0, end);
    if (this.#stage === 'name') this.#name += word;
    if (word !== '') return this.#keep(word);
    if (this.#name === '') this.giveUp();
    else this.#stage = 'value';
    return 0;
  }

  #beginArguments(): void {
    this.#pending = '';
    this.output.call(this.#name);
    this.#scanner = new JsonValueScanner();
    this.#stage = 'arguments';
  }

  #readArguments(text: string): number {
    const numRead = this.#scanner.push(text, 0);
    if (numRead > 0) this.output.arguments(text.slice(0, numRead));
    if (this.#scanner.state !== 'open') this.#leave();
    return numRead;
  }

  #leave(): void {
    this.#stage = 'content';
    this.#pending = '';
    this.#object = null;
  }

  protected giveUp(): void {
    const text = this.#pending + (this.#object?.text ?? '');
    this.#leave();
    if (text !== '') this.output.content(text);
  }
}
