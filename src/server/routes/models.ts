/** `GET /v1/models` and `/v1/models/{id}`. */
import { supportedPolicies } from '../../policies/index.ts';
import type { AppContext, ServerContext } from '../context.ts';
import type { ServedModel } from '../served-model.ts';

/** When the server started: models have no date of their own. */
const CREATED_SECONDS = Math.floor(Date.now() / 1000);

function modelObject({ id, info }: ServedModel): object {
  return {
    id,
    object: 'model',
    created: CREATED_SECONDS,
    owned_by: 'coppice',
    context_length: info.contextLength,
    modalities: ['text'],
    pruning: supportedPolicies(info.shape),
  };
}

export function listModels({ models }: ServerContext) {
  return (c: AppContext): Response => {
    models.checkLoaded();
    return c.json({ object: 'list', data: models.models.map(modelObject) });
  };
}

/** Ids may hold slashes: the route's `id` is the rest of the path. */
export function getModel({ models }: ServerContext) {
  return (c: AppContext): Response => {
    models.checkLoaded();
    return c.json(modelObject(models.find(c.req.param('id'))));
  };
}
