/** All routes over HTTP, each with what the OpenAPI document says of it. */
import type { ErrorCode } from '../../errors.ts';
import type { ServerContext } from '../context.ts';
import { openapiDocument } from '../openapi.ts';
import { chatCompletions } from '../operations/chat-completions.ts';
import { completions } from '../operations/completions.ts';
import { responses } from '../operations/responses.ts';
import type { Operation } from '../operation.ts';
import { PRUNING_HEADER } from '../pruning.ts';
import type { Route, RouteDescription } from '../route.ts';
import { chatCompletionBody, completionBody, detokenizeBody, tokenizeBody } from '../schemas/bodies.ts';
import {
  chatCompletion,
  chatCompletionChunk,
  completion,
  completionChunk,
} from '../schemas/choices-replies.ts';
import {
  detokenizeReply,
  model,
  modelList,
  openapiReply,
  policyList,
  statusReply,
  tokenizeReply,
} from '../schemas/replies.ts';
import { response, responseEvent } from '../schemas/response-reply.ts';
import { responseBody } from '../schemas/responses.ts';
import { generateRoute } from './generate.ts';
import { health, ready } from './health.ts';
import { showMetrics } from './metrics.ts';
import { getModel, listModels } from './models.ts';
import { listPolicies } from './policies.ts';
import { detokenize, tokenize } from './tokenize.ts';

const BODY_ERRORS: readonly ErrorCode[] = ['body_too_large', 'unsupported_media_type'];
const MODEL_ERRORS: readonly ErrorCode[] = ['model_not_found', 'model_loading'];
const TEXT_ERRORS: readonly ErrorCode[] = [
  ...BODY_ERRORS,
  ...MODEL_ERRORS,
  'draining',
  'unsupported_parameter',
  'unsupported_value',
];
const GENERATION_ERRORS: readonly ErrorCode[] = [
  ...TEXT_ERRORS,
  'context_length_exceeded',
  'queue_full',
  'kv_memory_exceeded',
  'timeout',
];

const STATUS = { name: 'Status', schema: statusReply };

export function routeTable(context: ServerContext): readonly Route[] {
  const table: Route[] = [
    ...generationRoutes(context),
    ...textRoutes(context),
    ...listingRoutes(context),
    ...probeRoutes(context),
    {
      method: 'GET',
      path: '/openapi.json',
      handle: (c) => c.json(openapiDocument(table, context)),
      about: {
        operationId: 'getOpenapi',
        summary: 'This document',
        reply: { name: 'OpenapiDocument', schema: openapiReply, description: 'OpenAPI 3.1' },
        errors: [],
      },
    },
  ];
  return table;
}

function generationRoutes(context: ServerContext): Route[] {
  return [
    generating(context, '/v1/chat/completions', chatCompletions(context), {
      operationId: 'createChatCompletion',
      summary: 'Answer a conversation',
      request: { name: 'ChatCompletionRequest', schema: chatCompletionBody },
      reply: { name: 'ChatCompletion', schema: chatCompletion, description: 'The answer' },
      events: { name: 'ChatCompletionChunk', schema: chatCompletionChunk },
    }),
    generating(context, '/v1/completions', completions(context), {
      operationId: 'createCompletion',
      summary: 'Continue a prompt, or several',
      request: { name: 'CompletionRequest', schema: completionBody },
      reply: { name: 'Completion', schema: completion, description: 'The continuations' },
      events: { name: 'CompletionChunk', schema: completionChunk },
    }),
    generating(
      context,
      '/v1/responses',
      responses(context, context.responses),
      {
        operationId: 'createResponse',
        summary: 'Answer a conversation that may continue an earlier response',
        request: { name: 'ResponseRequest', schema: responseBody },
        reply: { name: 'Response', schema: response, description: 'The response' },
        events: { name: 'ResponseEvent', schema: responseEvent },
      },
      ['previous_response_not_found'],
    ),
  ];
}

function generating(
  context: ServerContext,
  path: string,
  operation: Operation,
  about: Omit<RouteDescription, 'parameters' | 'errors'>,
  errors: readonly ErrorCode[] = [],
): Route {
  const description = "a preset's name, for clients that cannot add fields; the field pruning goes first";
  return {
    method: 'POST',
    path,
    handle: generateRoute(context, operation),
    about: {
      ...about,
      parameters: [{ name: PRUNING_HEADER, in: 'header', names: 'presets', description }],
      errors: [...GENERATION_ERRORS, ...errors],
    },
  };
}

function textRoutes(context: ServerContext): Route[] {
  return [
    {
      method: 'POST',
      path: '/tokenize',
      handle: tokenize(context),
      about: {
        operationId: 'tokenize',
        summary: "The token ids of a text, or of messages in the model's template",
        request: { name: 'TokenizeRequest', schema: tokenizeBody },
        reply: { name: 'Tokens', schema: tokenizeReply, description: 'Ids, and how many' },
        errors: TEXT_ERRORS,
      },
    },
    {
      method: 'POST',
      path: '/detokenize',
      handle: detokenize(context),
      about: {
        operationId: 'detokenize',
        summary: 'The text of token ids, control tokens included',
        request: { name: 'DetokenizeRequest', schema: detokenizeBody },
        reply: { name: 'Text', schema: detokenizeReply, description: 'The text' },
        errors: TEXT_ERRORS,
      },
    },
  ];
}

function listingRoutes(context: ServerContext): Route[] {
  return [
    {
      method: 'GET',
      path: '/v1/models',
      handle: listModels(context),
      about: {
        operationId: 'listModels',
        summary: 'The models of this server',
        reply: { name: 'ModelList', schema: modelList, description: 'All models' },
        errors: ['model_loading'],
      },
    },
    {
      method: 'GET',
      path: '/v1/models/:id{.+}',
      handle: getModel(context),
      about: {
        operationId: 'getModel',
        summary: 'One model',
        reply: { name: 'Model', schema: model, description: 'The model' },
        errors: MODEL_ERRORS,
      },
    },
    {
      method: 'GET',
      path: '/v1/policies',
      handle: listPolicies(context),
      about: {
        operationId: 'listPolicies',
        summary: 'What requests can leave out: policies with their options, and presets',
        parameters: [
          { name: 'model', in: 'query', names: 'models', description: 'the model that is to run them' },
        ],
        reply: { name: 'PolicyList', schema: policyList, description: 'Policies and presets' },
        errors: MODEL_ERRORS,
      },
    },
  ];
}

function probeRoutes(context: ServerContext): Route[] {
  return [
    {
      method: 'GET',
      path: '/health',
      handle: health,
      isPublic: true,
      about: {
        operationId: 'getHealth',
        summary: 'Whether the process lives',
        reply: { ...STATUS, description: 'It does' },
        errors: [],
      },
    },
    {
      method: 'GET',
      path: '/ready',
      handle: ready(context),
      isPublic: true,
      about: {
        operationId: 'getReady',
        summary: 'Whether the server takes work',
        reply: { ...STATUS, description: 'It does' },
        errors: ['model_loading', 'draining'],
      },
    },
    {
      method: 'GET',
      path: '/metrics',
      handle: showMetrics(context.metrics),
      isPublic: context.config.metrics.public,
      about: {
        operationId: 'getMetrics',
        summary: 'Metrics for Prometheus',
        reply: { description: 'In the text format', mediaType: 'text/plain' },
        errors: [],
      },
    },
  ];
}
