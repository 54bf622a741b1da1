/** A route: where it is, what answers there, and what the OpenAPI document says of it. */
import type { z } from 'zod';
import type { ErrorCode } from '../errors.ts';
import type { AppContext } from './context.ts';

export interface Route {
  readonly method: 'GET' | 'POST';
  /** As Hono writes it: `/v1/models/:id{.+}`. */
  readonly path: string;
  readonly handle: (c: AppContext) => Response | Promise<Response>;
  /** Answered without a key, too. */
  readonly isPublic?: boolean;
  readonly about: RouteDescription;
}

export interface RouteDescription {
  readonly operationId: string;
  readonly summary: string;
  /** The fields of a JSON body that are read; others are accepted. */
  readonly request?: NamedSchema;
  /** Header parameters and those of the query, all optional; a path's own is the name of a model. */
  readonly parameters?: readonly Parameter[];
  readonly reply: Reply;
  /** What each event of a streamed reply holds. */
  readonly events?: NamedSchema;
  /** Beside those of every route. */
  readonly errors: readonly ErrorCode[];
}

/** A component of the document. */
export interface NamedSchema {
  readonly name: string;
  readonly schema: z.ZodType;
}

/** Of JSON, or text of another media type. */
type Reply =
  | (NamedSchema & { readonly description: string })
  | { readonly description: string; readonly mediaType: string };

interface Parameter {
  readonly name: string;
  readonly in: 'query' | 'header';
  /** What its value is a name of. */
  readonly names: 'models' | 'presets';
  readonly description: string;
}
