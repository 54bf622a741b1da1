/** What a response consists of: messages, calls of functions and reasoning, as they stand in replies. */
import { randomBytes } from 'node:crypto';
import type { ChatContentLogprob } from '../logprobs.ts';

export type ItemStatus = 'in_progress' | 'completed' | 'incomplete';

export interface OutputText {
  type: 'output_text';
  annotations: never[];
  logprobs: ChatContentLogprob[];
  text: string;
}

export interface MessageItem {
  id: string;
  type: 'message';
  status: ItemStatus;
  content: OutputText[];
  role: 'assistant';
}

export interface ReasoningItem {
  id: string;
  type: 'reasoning';
  status: ItemStatus;
  summary: never[];
  content: { type: 'reasoning_text'; text: string }[];
}

export interface FunctionCallItem {
  id: string;
  type: 'function_call';
  status: ItemStatus;
  arguments: string;
  call_id: string;
  name: string;
}

export type OutputItem = MessageItem | ReasoningItem | FunctionCallItem;

/** 144 random bits behind the prefix. */
export function newId(prefix: 'msg_' | 'rs_' | 'fc_'): string {
  return prefix + randomBytes(18).toString('hex');
}
