/** `GET /v1/models` and `/v1/models/{id}`. */
import { supportedPolicies } from '../../policies/index.ts';
import type { AppContext, ServerContext } from '../context.ts';
import { checkModelName } from '../job.ts';
import type { LoadedModel } from '../model.ts';

function modelObject(model: LoadedModel): object {
  const { contextLength, shape } = model.engine.model;
  return {
    id: model.id,
    object: 'model',
    created: model.createdSeconds,
    owned_by: 'coppice',
    context_length: contextLength,
    modalities: ['text'],
    pruning: supportedPolicies(shape),
  };
}

export function listModels({ lifecycle }: ServerContext) {
  return (c: AppContext): Response => c.json({ object: 'list', data: [modelObject(lifecycle.model)] });
}

/** Ids may hold slashes: the route's `id` is the rest of the path. */
export function getModel({ lifecycle }: ServerContext) {
  return (c: AppContext): Response => {
    checkModelName(c.req.param('id'), lifecycle.model);
    return c.json(modelObject(lifecycle.model));
  };
}
