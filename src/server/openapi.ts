/** The OpenAPI 3.1 document, made from the table of routes and the schemas that requests are checked with. */
import { z } from 'zod';
import { errorLabel, errorStatus } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { packageInfo } from '../package-info.ts';
import type { ServerContext } from './context.ts';
import type { NamedSchema, Route, RouteDescription } from './route.ts';
import { modelField } from './schemas/fields.ts';
import { presetNames, pruningField, pruningSchema } from './schemas/pruning.ts';
import { errorReply } from './schemas/replies.ts';

/** Any request may meet them: before its route is known, or because of a bug. */
const COMMON_ERRORS: readonly ErrorCode[] = [
  'invalid_request',
  'host_not_allowed',
  'request_timeout',
  'headers_too_large',
  'internal',
];

const ERROR: NamedSchema = { name: 'Error', schema: errorReply };
/** What is valid here is known at run time only. */
const PRUNING: NamedSchema = { name: 'Pruning', schema: pruningField };
const MODEL: NamedSchema = { name: 'ModelName', schema: modelField };

const REQUEST_ID = {
  'x-request-id': {
    description: "the client's own if it is sane, else a new one",
    schema: { type: 'string' },
  },
};
const IGNORED_FIELDS = {
  'x-coppice-ignored-fields': {
    description: 'names of fields in the body that no one reads',
    schema: { type: 'string' },
  },
};
const RETRY_AFTER = {
  'retry-after': { description: 'seconds', schema: { type: 'integer', minimum: 0 } },
};

export function openapiDocument(table: readonly Route[], context: ServerContext): object {
  const hasKeys = context.gate.keys.areRequired;
  const { version, description } = packageInfo();
  return {
    openapi: '3.1.0',
    info: {
      title: 'coppice',
      version,
      description: `${description}.\n\nWebSockets at /v1/responses and /v1/chat/completions carry the same requests and events.`,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    paths: paths(table, context, hasKeys),
    components: {
      schemas: componentSchemas(table, context),
      ...(hasKeys && { securitySchemes: { apiKey: { type: 'http', scheme: 'bearer' } } }),
    },
    ...(hasKeys && { security: [{ apiKey: [] }] }),
  };
}

function paths(table: readonly Route[], context: ServerContext, hasKeys: boolean): object {
  const all: Record<string, Record<string, object>> = {};
  for (const route of table) {
    const path = route.path.replace(/:(\w+)(\{.*?\})?/g, '{$1}');
    (all[path] ??= {})[route.method.toLowerCase()] = operationObject(route, path, context, hasKeys);
  }
  return all;
}

function operationObject(route: Route, path: string, context: ServerContext, hasKeys: boolean): object {
  const { operationId, summary, request } = route.about;
  const isPublic = route.isPublic === true;
  const parameters = parameterObjects(route.about, path, context);
  return {
    operationId,
    summary,
    ...(parameters.length > 0 && { parameters }),
    ...(request && {
      requestBody: { required: true, content: { 'application/json': { schema: reference(request) } } },
    }),
    responses: {
      200: replyObject(route.about),
      ...errorObjects([...route.about.errors, ...COMMON_ERRORS], hasKeys && !isPublic),
    },
    ...(hasKeys && isPublic && { security: [] }),
  };
}

function parameterObjects({ parameters = [] }: RouteDescription, path: string, { presets }: ServerContext) {
  const own = parameters.map(({ names, ...parameter }) => ({
    ...parameter,
    required: false,
    schema: names === 'models' ? reference(MODEL) : { enum: presetNames(presets) },
  }));
  const ofPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: reference(MODEL),
  }));
  return [...ofPath, ...own];
}

function replyObject({ reply, events, request }: RouteDescription): object {
  const { description } = reply;
  const headers = { ...REQUEST_ID, ...(request && IGNORED_FIELDS) };
  if ('mediaType' in reply)
    return { description, headers, content: { [reply.mediaType]: { schema: { type: 'string' } } } };
  const stream = events && { 'text/event-stream': { schema: eventSchema(events) } };
  return { description, headers, content: { 'application/json': { schema: reference(reply) }, ...stream } };
}

/** Of each event; the last one of some routes is no JSON. */
function eventSchema(events: NamedSchema): object {
  return {
    description: 'each event of a streamed reply; comments keep the connection alive',
    type: 'object',
    properties: {
      event: { type: 'string' },
      data: {
        anyOf: [
          { type: 'string', contentMediaType: 'application/json', contentSchema: reference(events) },
          { const: '[DONE]' },
        ],
      },
    },
    required: ['data'],
  };
}

/** One reply a status, which says the codes that it can come with. */
function errorObjects(errors: readonly ErrorCode[], needsKey: boolean): object {
  const byStatus = new Map<number, string[]>();
  for (const code of new Set([...errors, ...(needsKey ? (['invalid_api_key'] as const) : [])])) {
    const status = errorStatus(code);
    byStatus.set(status, [...(byStatus.get(status) ?? []), errorLabel(code)]);
  }
  const objects = [...byStatus].map(([status, labels]) => [
    status,
    {
      description: labels.join(', '),
      headers: { ...REQUEST_ID, ...(status === errorStatus('queue_full') && RETRY_AFTER) },
      content: { 'application/json': { schema: reference(ERROR) } },
    },
  ]);
  return Object.fromEntries(objects) as object;
}

function reference({ name }: NamedSchema): { $ref: string } {
  return { $ref: uri(name) };
}

function uri(name: string): string {
  return `#/components/schemas/${name}`;
}

function componentSchemas(table: readonly Route[], { models, presets }: ServerContext): object {
  const registry = z.registry<{ id: string }>();
  const add = ({ name, schema }: NamedSchema) => registry.add(schema, { id: name });
  for (const { about } of table) {
    if (about.request) add(about.request);
    if (about.events) add(about.events);
    if ('schema' in about.reply) add(about.reply);
  }
  add(ERROR);
  add(PRUNING);
  add(MODEL);
  const { schemas } = z.toJSONSchema(registry, { io: 'input', uri });
  // Ids and dialects of their own would change what references mean.
  for (const schema of Object.values(schemas)) {
    delete schema.$id;
    delete schema.$schema;
  }
  return {
    ...schemas,
    [PRUNING.name]: pruningSchema(presets),
    [MODEL.name]: { enum: models.models.map(({ id }) => id) },
  };
}
