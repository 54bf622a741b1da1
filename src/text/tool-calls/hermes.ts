/** Calls as Hermes, Qwen 2.5 and Qwen 3 write them: JSON objects, each between `<tool_call>` and `</tool_call>`. */
import type { TagFormat } from '@mlc-ai/web-xgrammar';
import type { MarkedPiece } from '../markers.ts';
import { newCallId } from './call-id.ts';
import { CallObject } from './call-object.ts';
import type { ParserOptions, ToolCallFormat } from './contract.ts';
import { MarkedParser } from './marked-parser.ts';

const BEGIN = '<tool_call>';
const END = '</tool_call>';
const MARKERS: readonly string[] = [BEGIN, END];
/** Other formats use the same tags around something else than JSON. */
const FOREIGN_MARKERS: readonly string[] = ['<function=', '<arg_key>'];

export const hermes: ToolCallFormat = {
  name: 'hermes',
  markers: MARKERS,
  detect: (source) => source.includes(BEGIN) && !FOREIGN_MARKERS.some((marker) => source.includes(marker)),
  createParser: (options) => new HermesParser(options),
  grammar: (content, { isRequired, isParallel }) => {
    const tags: TagFormat[] = [
      {
        type: 'tag',
        begin: `${BEGIN}\n{"name": "`,
        content: content('", "arguments": '),
        end: `}\n${END}`,
      },
    ];
    const stop_after_first = !isParallel;
    return isRequired
      ? { type: 'tags_with_separator', tags, separator: '\n', at_least_one: true, stop_after_first }
      : { type: 'triggered_tags', triggers: [BEGIN], tags, stop_after_first };
  },
  newCallId,
};

class HermesParser extends MarkedParser {
  #object: CallObject | null = null;

  constructor({ hidden }: ParserOptions) {
    super(MARKERS, hidden);
  }

  protected take({ type, text }: MarkedPiece): void {
    const object = this.#object;
    if (type === 'marker' && !object?.isInString) {
      this.#marker(text);
    } else if (object === null) {
      this.output.content(text);
    } else if (!object.hasEnded) {
      const numRead = object.push(text);
      if (numRead < text.length) this.take({ type: 'text', text: text.slice(numRead) });
    } else if (!object.hasStarted || text.trim() !== '') {
      // It was no call, or no end tag follows.
      this.giveUp();
      this.output.content(text);
    }
  }

  #marker(marker: string): void {
    const endsCall = marker === END && this.#object?.hasStarted === true;
    this.giveUp();
    if (marker === BEGIN) this.#object = new CallObject(this.output);
    else if (!endsCall) this.output.content(marker);
  }

  protected giveUp(): void {
    if (this.#object?.hasStarted === false) this.output.content(BEGIN + this.#object.text);
    this.#object = null;
  }
}
