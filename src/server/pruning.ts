/** What a request leaves out: its `pruning` field, else the header of clients that cannot add fields, else the default. */
import { AppError } from '../errors.ts';
import { parsePruning } from '../policies/index.ts';
import type { PruningChoice } from '../policies/index.ts';
import type { LoadedModel } from './model.ts';

export const PRUNING_HEADER = 'x-coppice-pruning';

export interface AskedPruning {
  /** Value of the `pruning` field. */
  readonly field: unknown;
  /** What errors call it. */
  readonly param?: string;
  /** Value of the header: a preset's name. */
  readonly header?: string | undefined;
  /** The reply repeats the prompt. */
  readonly hasEcho?: boolean;
}

/**
 * Null when nothing was asked or is left out by default.
 * @throws AppError `invalid_request` naming the field or the header
 */
export function choosePruning(model: LoadedModel, asked: AskedPruning): PruningChoice | null {
  const { field, param: fieldParam = 'pruning', header } = asked;
  const isAsked = field !== undefined && field !== null;
  const param = isAsked || header === undefined ? fieldParam : PRUNING_HEADER;
  const value = isAsked ? field : header;
  const choice = value === undefined ? model.pruning.byDefault : parse(value, model, param);
  if (asked.hasEcho === true && choice?.families.tokens !== undefined) {
    throw new AppError(
      'invalid_request',
      `${param}: expected no tokens policy beside "echo": true (the prompt's log-probabilities need all of its ` +
        `tokens), got ${JSON.stringify(choice.families.tokens.policy)}`,
      { param },
    );
  }
  return choice;
}

/** Whoever named a preset did not write what is in it: the error is the name's. */
function parse(value: unknown, { engine, pruning }: LoadedModel, param: string): PruningChoice | null {
  try {
    return parsePruning(value, pruning.presets, engine.model.shape, param);
  } catch (error) {
    if (typeof value !== 'string' || !(error instanceof AppError) || error.param === param) throw error;
    const reason = error.message.replace(`${param}.`, '');
    throw new AppError(
      error.errorCode,
      `${param}: expected a preset that the model can run, got ${JSON.stringify(value)}: ${reason}`,
      { param },
    );
  }
}
