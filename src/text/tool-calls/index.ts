/** All formats of tool calls, and which one a model uses. */
import type { ToolCallFormat } from './contract.ts';
import { hermes } from './hermes.ts';
import { llama3Json } from './llama3-json.ts';
import { mistral, mistralArgs } from './mistral.ts';

export const TOOL_CALL_FORMATS: readonly ToolCallFormat[] = [mistral, mistralArgs, hermes, llama3Json];

/**
 * The format of the model's chat template. For one that names none it is Hermes': the most common, and the one in which
 * `tools-as-text` describes tools to models whose template does not.
 */
export function toolCallFormat(templateSource: string): ToolCallFormat {
  return TOOL_CALL_FORMATS.find((format) => format.detect(templateSource)) ?? hermes;
}
