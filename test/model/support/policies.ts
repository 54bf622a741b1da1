/** Every example of every policy as requests, on models that have all that policies need. */
import { fileURLToPath } from 'node:url';
import { AppError } from '../../../src/errors.ts';
import {
  type ActivePolicies,
  createPolicies,
  type Family,
  MODULES,
  parsePruning,
  type PruningChoice,
} from '../../../src/policies/index.ts';
import type { Model } from '../../../src/runtime/model.ts';

/** Three query heads to each KV head. */
export const GQA = fileURLToPath(new URL('../../fixtures/arch/llama-gqa-rope3', import.meta.url));

/** The same model with a DuoAttention pattern: gates that differ. */
export function withPattern(model: Model): Model {
  const { info } = model;
  const gates = info.shape.layers.map(({ kvHeads }, layer) =>
    Array.from({ length: kvHeads }, (_, head) => ((layer * 7 + head * 3) % 10) / 10),
  );
  return Object.create(model, { info: { value: { ...info, shape: { ...info.shape, gates } } } }) as Model;
}

/** A value of the `pruning` field. */
export type Setting = Readonly<Partial<Record<Family, unknown>>>;

export interface PolicyCase {
  readonly family: Family;
  readonly name: string;
  readonly title: string;
  /** As the family's value in a request. */
  readonly value: unknown;
}

export const CASES: readonly PolicyCase[] = MODULES.flatMap(({ family, name, examples }) =>
  examples.map((value) => ({ family, name, title: `${family} ${JSON.stringify(value)}`, value })),
);

/** The last example of every policy: it leaves most out. */
export const LAST_OF_EACH: readonly PolicyCase[] = CASES.filter(
  ({ family, name }, i) => CASES[i + 1]?.family !== family || CASES[i + 1]?.name !== name,
);

/** @throws AppError where the model or the combination does not allow it */
export function choose(model: Model, value: Setting): PruningChoice {
  const choice = parsePruning(value, {}, model.info.shape);
  if (choice === null) throw new Error(`no choice in ${JSON.stringify(value)}`);
  return choice;
}

export function choiceOf(model: Model, { family, value }: PolicyCase): PruningChoice {
  return choose(model, { [family]: value });
}

/** Whether the model can run it: pruned checkpoints lack layers that some examples name, some combinations are refused. */
export function isAccepted(model: Model, value: Setting): boolean {
  try {
    choose(model, value);
    return true;
  } catch (error) {
    if (error instanceof AppError && error.errorCode === 'invalid_request') return false;
    throw error;
  }
}

export function acceptedBy(model: Model, cases: readonly PolicyCase[]): PolicyCase[] {
  return cases.filter(({ family, value }) => isAccepted(model, { [family]: value }));
}

export function policiesOf(model: Model, choice: PruningChoice): ActivePolicies {
  return createPolicies(choice, model.info.shape);
}
