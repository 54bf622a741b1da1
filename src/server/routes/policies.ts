/** `GET /v1/policies`: what requests can leave out, and which of it the model (`?model=`, or the first) can run. */
import { AppError } from '../../errors.ts';
import { MODULES, describePolicy, parsePruning } from '../../policies/index.ts';
import type { AppContext, ServerContext } from '../context.ts';

export function listPolicies({ models, presets }: ServerContext) {
  return (c: AppContext): Response => {
    models.checkLoaded();
    const { shape } = models.find(c.req.query('model') ?? models.models[0]?.id).info;
    return c.json({
      object: 'list',
      data: MODULES.map((module) => describePolicy(module, shape)),
      presets: Object.entries(presets).map(([name, preset]) => {
        const reason = whyNot(() => parsePruning(name, presets, shape));
        return { name, ...preset, supported: reason === null, ...(reason !== null && { reason }) };
      }),
    });
  };
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
