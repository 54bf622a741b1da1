/** What a request's tools come to: what the model is told of them, how its calls are read, and what enforces them. */
import type { StructuralTagFormat } from '@mlc-ai/web-xgrammar';
import { invalidField } from '../errors.ts';
import type { SchemaNode } from '../text/json-schema/node.ts';
import { readSchema } from '../text/json-schema/read-schema.ts';
import { ANY_OBJECT, choiceGrammar } from '../text/json-schema/schema-grammar.ts';
import type { GrammarChoice } from '../text/json-schema/schema-grammar.ts';
import type { CallContent } from '../text/tool-calls/contract.ts';
import { toolCallFormat } from '../text/tool-calls/index.ts';
import type { TemplateTool } from '../text/tool-calls/message-calls.ts';
import type { CallReading } from './choice-parts.ts';
import type { LoadedModel } from './model.ts';
import type { FunctionTool, ToolChoice, ToolFields } from './schemas/tools.ts';

export interface ToolUse {
  /** As the prompt tells of them; null = it does not. */
  readonly told: readonly TemplateTool[] | null;
  /** Null = replies have no calls. */
  readonly reading: CallReading | null;
  /** Null = nothing is enforced. */
  readonly grammar: CallGrammar | null;
  /** Calls and nothing else, where content has a grammar of its own; null = there are no calls. */
  callsAlone(): StructuralTagFormat | null;
}

export interface CallGrammar {
  /** Whether the reply must be calls: then it has no content. */
  readonly isRequired: boolean;
  /** Calls, or, unless they are required, text with calls in it. */
  readonly format: StructuralTagFormat;
}

const NO_TOOLS: ToolUse = { told: null, reading: null, grammar: null, callsAlone: () => null };
/** What takes no parameters, as OpenAI reads it when they are left out. */
const NO_PARAMETERS = { type: 'object', properties: {} };

/** Which tools may be called, and whether one must be. */
interface Selection {
  readonly isRequired: boolean;
  /** Null = all. */
  readonly names: ReadonlySet<string> | null;
  /** Exactly one call. */
  readonly isSingle: boolean;
}

/**
 * @throws AppError `invalid_request` naming the field, for tools that contradict each other or the choice, and as
 * `readSchema` and `choiceGrammar` for parameters that cannot be enforced though they have to
 */
export function readToolUse(
  fields: ToolFields,
  { template, tokenizer }: Pick<LoadedModel, 'template' | 'tokenizer'>,
): ToolUse {
  const tools = fields.tools ?? [];
  checkNames(tools);
  const choice = fields.tool_choice ?? (tools.length === 0 ? 'none' : 'auto');
  if (choice === 'none') return NO_TOOLS;
  if (tools.length === 0) throw invalidField('tool_choice', 'expected tools beside it');
  const selection = select(choice, tools);
  const format = toolCallFormat(template.source);
  // A template that refuses several calls would refuse the conversation's next request.
  const isParallel =
    (fields.parallel_tool_calls ?? true) && (!template.takesTools || template.takesSeveralCalls);
  const content = callContent(tools, selection, tokenizer.vocabSize);
  const options = { isRequired: selection.isRequired, isParallel: isParallel && !selection.isSingle };
  // The free choice of a tool needs no grammar, unless something must hold for the calls that come of it.
  const isEnforced =
    selection.isRequired ||
    selection.names !== null ||
    fields.parallel_tool_calls === false ||
    tools.some((tool) => tool.function.strict === true);
  return {
    told: tools.map(told),
    reading: { format, names: new Set(tools.map((tool) => tool.function.name)) },
    grammar: isEnforced
      ? { isRequired: selection.isRequired, format: format.grammar(content, options) }
      : null,
    callsAlone: () => format.grammar(content, { ...options, isRequired: true }),
  };
}

function checkNames(tools: readonly FunctionTool[]): void {
  const names = new Set<string>();
  for (const [
    i,
    {
      function: { name },
    },
  ] of tools.entries()) {
    if (names.has(name)) {
      throw invalidField(
        `tools[${i}].function.name`,
        `expected a name of its own, got ${JSON.stringify(name)} again`,
      );
    }
    names.add(name);
  }
}

function select(choice: Exclude<ToolChoice, 'none'>, tools: readonly FunctionTool[]): Selection {
  if (typeof choice === 'string') {
    return { isRequired: choice === 'required', names: null, isSingle: false };
  }
  if (choice.type === 'function') {
    const { name } = choice.function;
    checkKnown(name, tools, 'tool_choice.function.name');
    return { isRequired: true, names: new Set([name]), isSingle: true };
  }
  const { mode, tools: allowed } = choice.allowed_tools;
  for (const [
    i,
    {
      function: { name },
    },
  ] of allowed.entries())
    checkKnown(name, tools, `tool_choice.allowed_tools.tools[${i}].function.name`);
  const names = new Set(allowed.map((tool) => tool.function.name));
  return { isRequired: mode === 'required', names, isSingle: false };
}

function checkKnown(name: string, tools: readonly FunctionTool[], param: string): void {
  if (tools.some((tool) => tool.function.name === name)) return;
  const known = tools.map((tool) => JSON.stringify(tool.function.name)).join(', ');
  throw invalidField(param, `expected one of the tools (${known}), got ${JSON.stringify(name.slice(0, 64))}`);
}

/** Schemas hold where a call is required or its tool is strict; other arguments may be any object. */
function callContent(
  tools: readonly FunctionTool[],
  { isRequired, names }: Selection,
  vocabSize: number,
): CallContent {
  const callable = [...tools.entries()].filter(([, tool]) => names?.has(tool.function.name) ?? true);
  return (between) => {
    const choices = callable.map(
      ([
        i,
        {
          function: { name, parameters, strict },
        },
      ]): GrammarChoice => {
        const param = `tools[${i}].function.parameters`;
        const isExact = isRequired || strict === true;
        const node = isExact
          ? readParameters(parameters ?? NO_PARAMETERS, param)
          : readSchema(ANY_OBJECT, param);
        return { before: name + between, node, param };
      },
    );
    return { type: 'grammar', grammar: choiceGrammar(choices, vocabSize) };
  };
}

/** Arguments are an object, whatever else the schema says. */
function readParameters(schema: Readonly<Record<string, unknown>>, param: string): SchemaNode {
  const node = readSchema(schema, param);
  if (node.type === 'any') return readSchema(ANY_OBJECT, param);
  if (isObject(node)) return node;
  throw invalidField(param, 'expected a schema of objects ("type": "object"), got one of other values');
}

/** Ends: no schema that was read is itself without anything between. */
function isObject(node: SchemaNode): boolean {
  if (node.type === 'union') return node.choices.every(isObject);
  if (node.type === 'reference') return node.target.node !== null && isObject(node.target.node);
  return node.type === 'object';
}

function told({ type, function: { name, description, parameters } }: FunctionTool): TemplateTool {
  return {
    type,
    function: { name, ...(description != null && { description }), parameters: parameters ?? NO_PARAMETERS },
  };
}
