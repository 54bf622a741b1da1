/** Every example of every policy, on models of several shapes, for the contract tests. */
import { expect } from 'vitest';
import {
  MODULES,
  createPolicies,
  parsePruning,
  type ActivePolicies,
  type KvPolicy,
  type ModelShape,
} from '../../src/policies/index.ts';
import { SHAPES } from './inputs.ts';

type PolicyFamily = keyof ActivePolicies;
type PolicyOf<F extends PolicyFamily> = NonNullable<ActivePolicies[F]>;

/** Goes the whole way, threads included, from the value of a family to a policy. */
export function create<F extends PolicyFamily>(family: F, value: unknown, model: ModelShape): PolicyOf<F> {
  const choice = parsePruning({ [family]: value }, {}, model);
  const policy = choice && createPolicies(structuredClone(choice), model)[family];
  if (policy === null) throw new Error(`no ${family} policy from ${JSON.stringify(value)}`);
  return policy;
}

interface Case<Policy> {
  readonly title: string;
  readonly name: string;
  readonly value: unknown;
  readonly model: ModelShape;
  readonly policy: Policy;
}

export function cases<F extends PolicyFamily>(family: F): Case<PolicyOf<F>>[] {
  return MODULES.filter((module) => module.family === family).flatMap(({ name, examples }) =>
    examples.flatMap((value) =>
      Object.entries(SHAPES).map(([shape, model]) => ({
        title: `${name} ${JSON.stringify(value)}, ${shape}`,
        name,
        value,
        model,
        policy: create(family, value, model),
      })),
    ),
  );
}

/** Those of the kv policies that do their work in one way. */
export function kvCases<K extends KvPolicy['kind']>(kind: K): Case<Extract<KvPolicy, { kind: K }>>[] {
  return cases('kv').filter(
    (item): item is Case<Extract<KvPolicy, { kind: K }>> => item.policy.kind === kind,
  );
}

/** As many ascending indices below `length` as the budget allows. */
export function expectSelection(indices: Int32Array, length: number, budget: number): void {
  expect(indices).toBeInstanceOf(Int32Array);
  expect(indices.length).toBe(budget);
  expect(indices.every((index, i) => index > (indices[i - 1] ?? -1) && index < length)).toBe(true);
}

export function allIndices(length: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => i);
}
