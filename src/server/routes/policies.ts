/** `GET /v1/policies`: what requests can leave out, and which of it the loaded model can run. */
import { AppError } from '../../errors.ts';
import { MODULES, describePolicy, parsePruning } from '../../policies/index.ts';
import type { AppContext, ServerContext } from '../context.ts';
import type { LoadedModel } from '../model.ts';

export function listPolicies({ lifecycle }: ServerContext) {
  return (c: AppContext): Response => {
    const { model } = lifecycle;
    const { shape } = model.engine.model;
    return c.json({
      object: 'list',
      data: MODULES.map((module) => describePolicy(module, shape)),
      presets: Object.keys(model.pruning.presets).map((name) => describePreset(name, model)),
    });
  };
}

function describePreset(name: string, { engine, pruning: { presets } }: LoadedModel): object {
  const reason = whyNot(() => parsePruning(name, presets, engine.model.shape));
  return { name, ...presets[name], supported: reason === null, ...(reason !== null && { reason }) };
}

function whyNot(parse: () => unknown): string | null {
  try {
    parse();
    return null;
  } catch (error) {
    if (error instanceof AppError) return error.message;
    throw error;
  }
}
