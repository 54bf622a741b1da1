/** Calls as Llama 3.1 and 3.2 write them: the reply is JSON objects, `;` between them, perhaps after a marker. */
import type { TagsWithSeparatorFormat } from '@mlc-ai/web-xgrammar';
import type { MarkedPiece } from '../markers.ts';
import { newCallId } from './call-id.ts';
import { CallObject } from './call-object.ts';
import type { CallContent, CallGrammarOptions, ParserOptions, ToolCallFormat } from './contract.ts';
import { MarkedParser } from './marked-parser.ts';

const MARKER = '<|python_tag|>';
const SEPARATOR = '; ';

export const llama3Json: ToolCallFormat = {
  name: 'llama3-json',
  markers: [MARKER],
  detect: (source) =>
    source.includes(MARKER) || (source.includes('"parameters": ') && source.includes('ipython')),
  createParser: (options) => new Llama3JsonParser(options),
  grammar: (content, options) =>
    options.isRequired
      ? calls(content, options)
      : {
          type: 'or',
          elements: [
            calls(content, options),
            {
              type: 'sequence',
              elements: [{ type: 'regex', pattern: '[^{ \\t\\r\\n]' }, { type: 'any_text' }],
            },
          ],
        },
  newCallId,
};

function calls(content: CallContent, { isParallel }: CallGrammarOptions): TagsWithSeparatorFormat {
  return {
    type: 'tags_with_separator',
    tags: [{ type: 'tag', begin: '{"name": "', content: content('", "parameters": '), end: '}' }],
    separator: SEPARATOR,
    at_least_one: true,
    stop_after_first: !isParallel,
  };
}

/**
 * Without the marker, only an object that opens the reply and has the name of a tool is a call: else it is an answer
 * in JSON.
 */
class Llama3JsonParser extends MarkedParser {
  readonly #names: ReadonlySet<string>;
  #stage: 'open' | 'object' | 'between' | 'content' = 'open';
  #object: CallObject | null = null;
  /** Text before the object that is only part of it if it is a call. */
  #lead = '';
  #isMarked = false;

  constructor({ hidden, names }: ParserOptions) {
    super([MARKER], hidden);
    this.#names = names;
  }

  protected take({ type, text }: MarkedPiece): void {
    if (type === 'text' || this.#object?.isInString === true) {
      let rest = text;
      while (rest !== '') rest = rest.slice(this.#read(rest));
      return;
    }
    this.giveUp();
    this.#stage = 'open';
    this.#isMarked = true;
    this.#lead = text;
  }

  /** How much of the text was read: at least one unit, unless the stage changed. */
  #read(text: string): number {
    const numSpaces = text.length - text.trimStart().length;
    switch (this.#stage) {
      case 'open':
      case 'between':
        return this.#readLead(text, numSpaces);
      case 'object':
        return this.#readObject(text);
      case 'content':
        this.output.content(text);
        return text.length;
    }
  }

  #readLead(text: string, numSpaces: number): number {
    const unit = text.charAt(numSpaces);
    const isSeparator = unit === ';' && this.#stage === 'between' && !this.#lead.includes(';');
    if (isSeparator || unit === '') {
      const numRead = numSpaces + unit.length;
      this.#lead += text.slice(0, numRead);
      return numRead;
    }
    const mayBegin = this.#stage === 'open' || this.#lead.includes(';');
    if (unit !== '{' || !mayBegin) {
      this.#stage = 'content';
      this.output.content(this.#lead);
      this.#lead = '';
      return 0;
    }
    this.#lead += text.slice(0, numSpaces);
    this.#stage = 'object';
    this.#object = new CallObject(this.output, (name) => this.#isMarked || this.#names.has(name));
    return numSpaces;
  }

  #readObject(text: string): number {
    const numRead = this.#object?.push(text) ?? 0;
    if (this.#object?.hasEnded === false) return numRead;
    const wasCall = this.#object?.hasStarted === true;
    this.giveUp();
    this.#stage = wasCall ? 'between' : 'content';
    return numRead;
  }

  protected giveUp(): void {
    const isCall = this.#object?.hasStarted === true;
    if (!isCall) this.output.content(this.#lead + (this.#object?.text ?? ''));
    this.#lead = '';
    this.#object = null;
  }
}
