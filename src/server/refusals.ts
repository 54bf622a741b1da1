/** Refuses what the server cannot do, by name; values that mean "off" pass. */
import { AppError } from '../errors.ts';
import { describe } from '../validation.ts';
import type { ChatMessageInput } from './schemas/chat-messages.ts';
import type { RefusedFields, RefusedTools, SamplingFields } from './schemas/fields.ts';

/** Per field: whether a value (never null or absent) asks for nothing, and what is valid instead. */
type Refusals<Name extends string> = Readonly<
  Record<Name, { readonly isOff: (value: unknown) => boolean; readonly valid: string }>
>;

const FIELDS: Refusals<keyof RefusedFields> = {
  best_of: { isOff: (value) => value === 1, valid: 'best_of is not supported; expected 1 or no value' },
  audio: { isOff: () => false, valid: 'audio output is not supported; expected no value' },
  modalities: {
    isOff: (value) => Array.isArray(value) && value.length === 1 && value[0] === 'text',
    valid: 'only text output is supported; expected ["text"]',
  },
  functions: { isOff: () => false, valid: 'functions are not supported; expected no value' },
  function_call: { isOff: () => false, valid: 'functions are not supported; expected no value' },
  background: {
    isOff: (value) => value === false,
    valid: 'background work is not supported; expected false or no value',
  },
  suffix: { isOff: (value) => value === '', valid: 'suffix is not supported; expected no value' },
};

const TOOLS: Refusals<keyof RefusedTools> = {
  tools: {
    isOff: (value) => Array.isArray(value) && value.length === 0,
    valid: 'tools are not supported; expected no value',
  },
  tool_choice: {
    isOff: (value) => value === 'none',
    valid: 'tools are not supported; expected "none" or no value',
  },
};

/** @throws AppError `unsupported_parameter` */
export function refuseFields(fields: RefusedFields): void {
  refuse(FIELDS, fields);
}

/** @throws AppError `unsupported_parameter` */
export function refuseTools(fields: RefusedTools): void {
  refuse(TOOLS, fields);
}

function refuse<Name extends string>(refusals: Refusals<Name>, fields: Partial<Record<Name, unknown>>): void {
  for (const name of Object.keys(refusals) as Name[]) {
    const { isOff, valid } = refusals[name];
    const value = fields[name];
    if (value === undefined || value === null || isOff(value)) continue;
    throw new AppError('unsupported_parameter', `${valid}, got ${describe(value)}`, { param: name });
  }
}

/** @throws AppError `unsupported_value` for content that no loaded model can read. */
export function refuseMessages(messages: readonly ChatMessageInput[]): void {
  for (const [i, message] of messages.entries()) {
    const where = `messages[${i}]`;
    if (!Array.isArray(message.content)) continue;
    for (const [j, part] of message.content.entries()) {
      if (part.type === 'text') continue;
      throw new AppError(
        'unsupported_value',
        `the loaded model reads text only, got a part of type "${part.type}"`,
        {
          param: `${where}.content[${j}].type`,
        },
      );
    }
  }
}

/** @throws AppError `invalid_request` for any drafter: there is none yet. */
export function refuseSpeculative({ speculative }: SamplingFields): void {
  if (speculative === undefined || speculative === null || speculative === false) return;
  throw new AppError(
    'invalid_request',
    `speculative: expected false (no drafter is available), got ${describe(speculative)}`,
    { param: 'speculative' },
  );
}
