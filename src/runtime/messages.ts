/** Messages between the server's thread and the engine's. */
import type { Vocabulary } from './constraint/vocabulary.ts';
import type { EngineOptions } from './engine.ts';
import type { LoadOptions } from './model.ts';
import type { EngineEvent, EngineStats, GenerationRequest, ModelInfo } from './protocol.ts';

/** What the engine's thread is started with. */
export type WorkerOptions = Omit<LoadOptions, 'onProgress'> & EngineOptions;

export type ToWorker =
  /** Before the first constrained request. */
  | { readonly type: 'vocabulary'; readonly vocabulary: Vocabulary }
  | { readonly type: 'submit'; readonly request: GenerationRequest }
  | { readonly type: 'cancel'; readonly id: string }
  /** The reader of a request is behind, or has caught up. */
  | { readonly type: 'pause' | 'resume'; readonly id: string }
  | { readonly type: 'stopChoice'; readonly id: string; readonly choice: number }
  | { readonly type: 'stats'; readonly query: number }
  | { readonly type: 'close' };

export type FromWorker =
  | { readonly type: 'progress'; readonly message: string }
  | { readonly type: 'ready'; readonly model: ModelInfo }
  /** The model cannot be loaded; the text is for the user. */
  | { readonly type: 'failed'; readonly message: string }
  /** What happened in one turn, by request id, in order. */
  | { readonly type: 'events'; readonly events: readonly (readonly [id: string, event: EngineEvent])[] }
  /** The answer to a query, or unasked (null) while the engine runs. */
  | { readonly type: 'stats'; readonly query: number | null; readonly stats: EngineStats }
  | { readonly type: 'closed' };
