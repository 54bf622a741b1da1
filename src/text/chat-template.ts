/** Renders conversations with the model's own Jinja template. */
import { Template } from '@huggingface/jinja';
import { z } from 'zod';
import { AppError, errorMessage } from '../errors.ts';
import { TEXT_METHODS, usePythonTextMethods } from './jinja-text-methods.ts';
import { readModelJson, readModelText } from './model-file.ts';
import { namedTokens } from './special-tokens.ts';
import { tokenizerConfigSchema } from './tokenizer-file.ts';
import type { TokenizerConfig } from './tokenizer-file.ts';

export interface ContentPart {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** As the client wrote it; keys beyond these (`tool_calls`, `name`, ...) reach the template. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | readonly ContentPart[] | null;
  readonly [key: string]: unknown;
}

export interface ChatOptions {
  /** End with the header of the reply to come (default true). */
  readonly addGenerationPrompt?: boolean;
  readonly tools?: readonly unknown[] | null;
  /** More variables of the template, such as `enable_thinking`. */
  readonly kwargs?: Readonly<Record<string, unknown>>;
}

/** Is looked for in what a template renders. */
const PROBE = 'coppice-probe';
const PROBE_TOOL = {
  type: 'function',
  function: { name: PROBE, description: '', parameters: { type: 'object', properties: {} } },
};

const PROBE_CALLS = [
  {
    role: 'assistant',
    content: '',
    tool_calls: ['probe0001', 'probe0002'].map((id) => ({
      id,
      type: 'function',
      function: { name: PROBE, arguments: {} },
    })),
  },
  { role: 'tool', tool_call_id: 'probe0001', name: PROBE, content: 'x' },
  { role: 'tool', tool_call_id: 'probe0002', name: PROBE, content: 'x' },
];

type Compiled = { readonly template: Template } | { readonly problem: string };

const chatTemplateFileSchema = z.object({ chat_template: tokenizerConfigSchema.shape.chat_template });

export class ChatTemplate {
  /** What its authors wrote, all templates of the model: says which markers the model knows. */
  readonly source: string;
  /** Whether a message's content may be a list of parts. */
  readonly takesParts: boolean;
  /** Whether it may be nothing else. */
  readonly needsParts: boolean;
  /** Whether it tells the model of `tools`. */
  readonly takesTools: boolean;
  /** Whether one turn of the model may hold several calls; false where calls cannot be shown at all. */
  readonly takesSeveralCalls: boolean;
  /** Whether a conversation may begin with a message of the role `system`. */
  readonly takesSystem: boolean;
  readonly #default: Compiled;
  readonly #withTools: Compiled;
  readonly #variables: Readonly<Record<string, unknown>>;

  /** `templates`: sources by name; `default` is the one used, `tool_use` where there are tools. */
  constructor(templates: Readonly<Record<string, string>>, variables: Readonly<Record<string, unknown>>) {
    this.#variables = variables;
    this.source = Object.values(templates).join('\n');
    this.#default = compile(templates.default ?? Object.values(templates)[0]);
    this.#withTools = templates.tool_use === undefined ? this.#default : compile(templates.tool_use);
    this.takesParts = this.#shows([{ type: 'text', text: PROBE }]);
    this.needsParts = this.takesParts && !this.#shows(PROBE);
    const probe = this.needsParts ? [{ type: 'text', text: PROBE }] : PROBE;
    const user = { role: 'user', content: this.needsParts ? [{ type: 'text', text: 'x' }] : 'x' };
    this.takesTools = this.#renders([user], [PROBE_TOOL]);
    this.takesSeveralCalls = this.#renders([user, ...PROBE_CALLS], [PROBE_TOOL]);
    this.takesSystem = this.#renders([{ role: 'system', content: probe }, user]);
  }

  /**
   * Looks for `chat_template.jinja`, `chat_template.json` and tokenizer_config.json's `chat_template`, in this order.
   * A model without one, or with one that cannot be compiled, still loads: only chat requests fail.
   * @throws AppError `startup` naming a file that cannot be read.
   */
  static load(modelDir: string): ChatTemplate {
    const config = readModelJson(modelDir, 'tokenizer_config.json', tokenizerConfigSchema) ?? {};
    const source =
      readModelText(modelDir, 'chat_template.jinja') ??
      readModelJson(modelDir, 'chat_template.json', chatTemplateFileSchema)?.chat_template ??
      config.chat_template;
    return new ChatTemplate(byName(source), namedTokens(config));
  }

  get available(): boolean {
    return 'template' in this.#default;
  }

  /**
   * The conversation as the template writes it, control tokens included.
   * @throws AppError `invalid_request` (param `messages`) if there is no template, or it refuses the messages.
   */
  render(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    const tools = options.tools ?? null;
    const compiled = tools === null ? this.#default : this.#withTools;
    if ('problem' in compiled) {
      throw new AppError('invalid_request', `expected a model that can chat, got one ${compiled.problem}`, {
        param: 'messages',
      });
    }
    const own = { messages, tools, add_generation_prompt: options.addGenerationPrompt ?? true };
    for (const name of Object.keys(options.kwargs ?? {})) {
      if (!(name in own) && !(name in TEXT_METHODS) && !(name in this.#variables)) continue;
      const param = `chat_template_kwargs.${name}`;
      throw new AppError('invalid_request', `expected a variable that the server does not set, got ${name}`, {
        param,
      });
    }
    try {
      return compiled.template.render({ ...TEXT_METHODS, ...this.#variables, ...options.kwargs, ...own });
    } catch (error) {
      const message = `the chat template refused the messages: ${errorMessage(error)}`;
      throw new AppError('invalid_request', message, { param: 'messages', cause: error });
    }
  }

  /** Tries the content: no other sign tells what a template expects. A list printed as such is not understood. */
  #shows(content: string | readonly ContentPart[]): boolean {
    const rendered = this.#tryToRender([{ role: 'user', content }]);
    return rendered.includes(PROBE) && !rendered.includes('"type"');
  }

  #renders(messages: readonly ChatMessage[], tools: readonly unknown[] | null = null): boolean {
    return this.#tryToRender(messages, tools).includes(PROBE);
  }

  #tryToRender(messages: readonly ChatMessage[], tools: readonly unknown[] | null = null): string {
    try {
      return this.render(messages, { tools });
    } catch {
      return '';
    }
  }
}

function byName(source: TokenizerConfig['chat_template']): Record<string, string> {
  if (source == null) return {};
  if (typeof source === 'string') return { default: source };
  return Object.fromEntries(source.map(({ name, template }) => [name, template]));
}

function compile(source: string | undefined): Compiled {
  if (source === undefined) return { problem: 'without a chat template' };
  try {
    const template = new Template(source);
    usePythonTextMethods(template);
    return { template };
  } catch (error) {
    return { problem: `whose chat template cannot be compiled: ${errorMessage(error)}` };
  }
}
