/** What one request leaves out, as plain data, and the policies that it makes. */
import { FAMILIES } from './contract.ts';
import type { Family, KvPolicy, LayerPolicy, ModelShape, Policies, TokenPolicy } from './contract.ts';
import { modulesOf } from './modules.ts';

/** One policy with its options, as parsed; plain data, so that it crosses threads. */
export interface ChosenPolicy {
  readonly policy: string;
  readonly options: unknown;
}

/** What one request leaves out. */
export interface PruningChoice {
  /** Name of the preset that it came from, or null. */
  readonly preset: string | null;
  readonly families: Readonly<Partial<Record<Family, ChosenPolicy>>>;
}

/** Named settings: values of the `pruning` field. */
export type Presets = Readonly<Record<string, { readonly summary: string; readonly pruning: unknown }>>;

/** A sequence's policies; null = the family is not in force. */
export interface ActivePolicies {
  readonly tokens: TokenPolicy | null;
  readonly kv: KvPolicy | null;
  readonly layers: LayerPolicy | null;
}

/** The setting that leaves nothing out. */
export const NO_PRESET = 'none';

function create<F extends Family>(family: F, choice: PruningChoice, model: ModelShape): Policies[F] | null {
  const chosen = choice.families[family];
  if (chosen === undefined) return null;
  const module = modulesOf(family).find(({ name }) => name === chosen.policy);
  return (module?.create(chosen.options, model) ?? null) as Policies[F] | null;
}

/** The policies of one sequence. */
export function createPolicies(choice: PruningChoice, model: ModelShape): ActivePolicies {
  return {
    tokens: create('tokens', choice, model),
    kv: create('kv', choice, model),
    layers: create('layers', choice, model),
  };
}

/** What metrics and logs call it: the preset, or the names joined by `+`, or `none`. */
export function policyLabel(choice: PruningChoice | null): string {
  if (choice?.preset != null) return choice.preset;
  const chosen = FAMILIES.flatMap((family) => choice?.families[family]?.policy ?? []);
  return chosen.length === 0 ? NO_PRESET : chosen.join('+');
}
