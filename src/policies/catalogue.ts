/** What there is to choose from, as clients read it. */
import { z } from 'zod';
import type { Family, ModelShape } from './contract.ts';
import { modulesOf } from './modules.ts';
import type { AnyModule } from './modules.ts';

/** A module's options as clients write them, as a JSON schema. */
export function optionSchema(module: AnyModule) {
  return z.toJSONSchema(module.options, { io: 'input' });
}

/** One entry of GET /v1/policies. */
export function describePolicy(module: AnyModule, model: ModelShape) {
  const reason = module.unsupported?.(model) ?? null;
  return {
    name: module.name,
    family: module.family,
    summary: module.summary,
    paper: module.paper,
    needs: module.needs,
    supported: reason === null,
    ...(reason !== null && { reason }),
    options: optionSchema(module),
    examples: module.examples,
  };
}

/** Names of the policies that a model can run, by family. */
export function supportedPolicies(model: ModelShape): Record<Family, string[]> {
  const of = (family: Family): string[] =>
    modulesOf(family)
      .filter((module) => (module.unsupported?.(model) ?? null) === null)
      .map(({ name }) => name);
  return { tokens: of('tokens'), kv: of('kv'), visual: of('visual'), layers: of('layers') };
}
