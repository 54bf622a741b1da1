/** From tokens to parts, with markers that are control tokens: they are seen, and never shown. */
import { describe, expect, test } from 'vitest';
import { PLAIN_REPLY, replyFormat } from '../../src/server/choice-parts.ts';
import type { ChoicePart, ReplyFormat } from '../../src/server/choice-parts.ts';
import { ChoiceText } from '../../src/server/choice-text.ts';
import { hermes } from '../../src/text/tool-calls/hermes.ts';
import { mistral } from '../../src/text/tool-calls/mistral.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { loadTokenizer } from '../text/models.ts';

const tokenizer = loadTokenizer('mistral-7b-v0.3');
const [marker] = tokenizer.controlTokenIds(['[TOOL_CALLS]']).values();
const [other] = tokenizer.controlTokenIds(['[AVAILABLE_TOOLS]']).values();
const plain = (text: string) => tokenizer.encodePlain(text);

function read(ids: readonly number[], format: ReplyFormat, stop: string[] = []) {
  const prompt = Int32Array.of();
  const choice = new ChoiceText(tokenizer, prompt, { stop, minTokens: 0, replyFormat: format });
  const logprobs = { logprob: -1, top: [] };
  const released = ids.map((id) => choice.push(id, logprobs));
  if (!choice.isFinished) released.push(choice.finish('stop'));
  const parts = released.flatMap((piece) => piece.parts);
  return {
    content: textOf(parts, 'content'),
    reasoning: textOf(parts, 'reasoning'),
    arguments: textOf(parts, 'arguments'),
    names: parts.flatMap((part) => (part.type === 'call' ? [part.name] : [])),
    text: released.map((piece) => piece.text).join(''),
    tokens: released.flatMap((piece) => piece.tokens.map(({ id }) => id)),
    reason: choice.finishReason,
  };
}

function textOf(parts: readonly ChoicePart[], type: 'content' | 'reasoning' | 'arguments'): string {
  return parts.map((part) => (part.type === type ? part.text : '')).join('');
}

const calls = { format: mistral, names: new Set(['add']) };
const format = replyFormat(tokenizer, 'none', calls);
const list = ' [{"name": "add", "arguments": {"a": "é [x]"}}]';

describe('a call behind a control token', () => {
  const ids = [...plain('Well.'), other!, marker!, ...plain(list)];

  test('is read, and the token is nowhere but in the raw text', () => {
    expect(read(ids, format)).toMatchObject({
      content: 'Well.',
      names: ['add'],
      arguments: '{"a": "é [x]"}',
      reason: 'tool_calls',
      text: `Well.[TOOL_CALLS]${list.trimStart()}`,
    });
  });

  test('that is none is content without it', () => {
    const { content, names, reason } = read([...plain('Well'), marker!, ...plain(' [1]')], format);
    expect({ content, names, reason }).toEqual({ content: 'Well[1]', names: [], reason: 'stop' });
  });

  test('is left out where nobody reads calls', () => {
    expect(read([...plain('Well'), marker!, ...plain(' no')], PLAIN_REPLY).content).toBe('Well no');
  });

  test('has every token once, with the part that it is released with', () => {
    expect(read(ids, format).tokens).toEqual(ids);
    expect(read([...ids, ...plain(' ')], format).tokens).toEqual([...ids, ...plain(' ')]);
  });

  test('may hold a stop string', () => {
    expect(read(ids, format, ['é'])).toMatchObject({
      names: ['add'],
      arguments: '{"a": "',
      reason: 'tool_calls',
    });
    expect(read(ids, format, ['ell'])).toMatchObject({ names: [], content: 'W', reason: 'stop' });
  });
});

test('thoughts and calls may both be framed by control tokens', () => {
  const control = ['<think>', '</think>', '<tool_call>', '</tool_call>'];
  const { vocab } = {
    vocab: Object.fromEntries(Array.from('abcdefghijklmnopqrstuvwxyz{}":, ', (c, i) => [c, i])),
  };
  const added_tokens = control.map((content, i) => ({
    id: 100 + i,
    content,
    special: true,
    normalized: false,
    lstrip: false,
    rstrip: false,
    single_word: false,
  }));
  const small = new Tokenizer({ added_tokens, model: { type: 'BPE', vocab, merges: [] } } as never, {});
  expect([...small.controlTokenIds(control).keys()]).toEqual(control);
  const { shownIds } = replyFormat(small, 'possible', { format: hermes, names: new Set() });
  expect([...shownIds]).toEqual([100, 101, 102, 103]);
  expect([...replyFormat(small, 'open', null).shownIds]).toEqual([100, 101]);
  expect(replyFormat(small, 'none', null)).toBe(PLAIN_REPLY);
});
