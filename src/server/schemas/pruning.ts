/** The JSON schema of the `pruning` field, made from the presets and the policies' own options. */
import { z } from 'zod';
import { FAMILIES, MODULES, NO_PRESET, optionSchema } from '../../policies/index.ts';
import type { Family, Presets } from '../../policies/index.ts';

/** Stands for the field where schemas of bodies are made into JSON schemas: what is valid is known with the presets. */
export const pruningField = z.unknown();

export function presetNames(presets: Presets): string[] {
  return [NO_PRESET, ...Object.keys(presets)];
}

export function pruningSchema(presets: Presets): object {
  return {
    description: "a preset's name, or for each family a policy by name or with its options",
    anyOf: [
      { enum: presetNames(presets) },
      {
        type: 'object',
        properties: Object.fromEntries(FAMILIES.map((family) => [family, familySchema(family)])),
        additionalProperties: false,
      },
      { type: 'null' },
    ],
  };
}

function familySchema(family: Family): object {
  const modules = MODULES.filter((module) => module.family === family);
  const names = modules.map(({ name }) => name);
  if (names.length === 0) return { type: 'null', description: 'no policy of this family exists yet' };
  return { anyOf: [{ enum: names }, ...modules.map(policySchema), { type: 'null' }] };
}

function policySchema(module: (typeof MODULES)[number]): object {
  const { properties, required = [], ...rest } = optionSchema(module);
  delete rest.$schema;
  return {
    ...rest,
    description: module.summary,
    properties: { policy: { const: module.name }, ...properties },
    required: ['policy', ...required],
  };
}
