/** All policies; reads what a request asks for, and makes the policies of one sequence. */
import { z } from 'zod';
import { AppError } from '../errors.ts';
import { describe, firstMistake } from '../validation.ts';
import {
  FAMILIES,
  type Family,
  type KvPolicy,
  type LayerPolicy,
  type ModelShape,
  type Policies,
  type PolicyModule,
  type TokenPolicy,
} from './contract.ts';
import { duoAttention } from './kv/duo-attention.ts';
import { expectedAttention } from './kv/expected-attention.ts';
import { h2o } from './kv/h2o.ts';
import { keyDiff } from './kv/key-diff.ts';
import { keyNorm } from './kv/key-norm.ts';
import { kvzip } from './kv/kvzip.ts';
import { longheads } from './kv/longheads.ts';
import { pyramidkv } from './kv/pyramidkv.ts';
import { quest } from './kv/quest.ts';
import { randomEntries } from './kv/random.ts';
import { snapkv } from './kv/snapkv.ts';
import { streamingLlm } from './kv/streaming-llm.ts';
import { tova } from './kv/tova.ts';
import { attentionDrop } from './layers/attention-drop.ts';
import { finercut } from './layers/finercut.ts';
import { headMask } from './layers/head-mask.ts';
import { refuse } from './option-checks.ts';
import { ftp } from './tokens/ftp.ts';
import { lazyllm } from './tokens/lazyllm.ts';
import { randomTokens } from './tokens/random.ts';
import { spatten } from './tokens/spatten.ts';

export * from './contract.ts';
export { keptEntries, topIndices } from './selection.ts';

type AnyModule = { [F in Family]: PolicyModule<F> }[Family];

/** Options are checked by the module's own schema before its `create` sees them. */
const asAny = (module: unknown): AnyModule => module as AnyModule;

/** In the order of the table of policies. */
export const MODULES: readonly AnyModule[] = [
  lazyllm,
  spatten,
  ftp,
  randomTokens,
  duoAttention,
  streamingLlm,
  h2o,
  tova,
  snapkv,
  pyramidkv,
  expectedAttention,
  keyNorm,
  keyDiff,
  kvzip,
  randomEntries,
  quest,
  longheads,
  attentionDrop,
  finercut,
  headMask,
].map(asAny);

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

function modulesOf(family: Family): readonly AnyModule[] {
  return MODULES.filter((module) => module.family === family);
}

function names(values: readonly string[]): string {
  return values.map((name) => JSON.stringify(name)).join(', ');
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Reads a value of the `pruning` field: null for absent, otherwise checked against the model.
 * @throws AppError `invalid_request` naming the field below `param`
 */
export function parsePruning(
  value: unknown,
  presets: Presets,
  model: ModelShape,
  param = 'pruning',
): PruningChoice | null {
  if (value === undefined || value === null) return null;
  if (typeof value === 'string') {
    if (value === NO_PRESET) return { preset: NO_PRESET, families: {} };
    if (!Object.hasOwn(presets, value))
      refuse(`expected one of ${names([NO_PRESET, ...Object.keys(presets)])}, got ${describe(value)}`, param);
    const choice = parsePruning(presets[value]?.pruning, {}, model, param);
    return { preset: value, families: choice?.families ?? {} };
  }
  if (!isRecord(value)) refuse(`expected a preset's name or an object, got ${describe(value)}`, param);
  const families: Partial<Record<Family, ChosenPolicy>> = {};
  for (const [key, choice] of Object.entries(value)) {
    const family = FAMILIES.find((name) => name === key);
    if (family === undefined)
      refuse(`expected one of the families ${names(FAMILIES)}`, `${param}.${key.slice(0, 60)}`);
    if (choice === null) continue;
    families[family] = parseFamily(family, choice, model, `${param}.${family}`);
  }
  const choice = { preset: null, families };
  checkCombination(choice, model, param);
  return choice;
}

function parseFamily(family: Family, value: unknown, model: ModelShape, param: string): ChosenPolicy {
  if (typeof value !== 'string' && !isRecord(value))
    refuse(`expected a policy's name or an object, got ${describe(value)}`, param);
  const { policy: name, ...options } = typeof value === 'string' ? { policy: value } : value;
  const module = modulesOf(family).find((candidate) => candidate.name === name);
  if (module === undefined) {
    const known = modulesOf(family).map((candidate) => candidate.name);
    const expected =
      known.length === 0 ? `no ${family} policy (there is none yet)` : `one of ${names(known)}`;
    return refuse(`expected ${expected}, got ${describe(name)}`, `${param}.policy`);
  }
  const reason = module.unsupported?.(model) ?? null;
  if (reason !== null) refuse(`${module.name} cannot run here: ${reason}`, `${param}.policy`);
  const parsed = module.options.safeParse(options, { reportInput: true });
  if (!parsed.success) {
    const { path, message } = firstMistake(parsed.error);
    const [issue] = parsed.error.issues;
    const hint =
      issue?.code === 'unrecognized_keys' ? `; valid are ${names(keysAt(module, issue.path))}` : '';
    refuse(message + hint, path === '' ? param : `${param}.${path}`);
  }
  const chosen = { policy: module.name, options: parsed.data };
  try {
    module.create(parsed.data, model);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    throw new AppError(error.errorCode, `${param}.${error.message}`, {
      param: error.param === null ? param : `${param}.${error.param}`,
    });
  }
  return chosen;
}

/** More than any rounding takes away. */
const MANY_TOKENS = 1000;

/** The layer after which tokens would be cut although no attention has said anything about them, or null. */
function blindCut({ tokens, layers }: ActivePolicies, model: ModelShape): number | null {
  if (tokens === null || tokens.observes === 'none') return null;
  const cuts = (layer: number): boolean =>
    (tokens.budget(layer, MANY_TOKENS, MANY_TOKENS) ?? MANY_TOKENS) < MANY_TOKENS;
  // `all` hears every layer, `last` those where it cuts; a cut goes by what was heard last.
  const hears = ({ queryHeads }: ModelShape['layers'][number], layer: number): boolean =>
    queryHeads > 0 && layers?.attention[layer] !== false && (tokens.observes === 'all' || cuts(layer));
  const first = model.layers.findIndex((_, layer) => cuts(layer));
  return first === -1 || model.layers.slice(0, first + 1).some(hears) ? null : first;
}

/** Refuses what has no meaning together. */
function checkCombination(choice: PruningChoice, model: ModelShape, param: string): void {
  const policies = createPolicies(choice, model);
  const { tokens, kv } = policies;
  const blind = blindCut(policies, model);
  if (blind !== null)
    refuse(
      `expected attention to run before the first tokens are left out, got none up to layer ${blind}`,
      param,
    );
  if (tokens?.revives === true && kv?.kind === 'evict') {
    refuse(
      `expected "prefill_only": true in tokens beside the evicting kv policy ${choice.families.kv?.policy}: entries that it evicts cannot be computed again`,
      param,
    );
  }
  if (tokens?.revives === true && kv?.kind === 'read')
    refuse(
      `expected "prefill_only": true in tokens beside ${choice.families.kv?.policy}: both choose what a decode step reads`,
      param,
    );
}

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

/** A module's options as clients write them, as a JSON schema. */
export function optionSchema(module: AnyModule) {
  return z.toJSONSchema(module.options, { io: 'input' });
}

/** Keys of the object that stands at `path` in a module's options. */
function keysAt(module: AnyModule, path: readonly PropertyKey[]): string[] {
  interface Schema {
    readonly properties?: Readonly<Record<string, unknown>>;
    readonly items?: unknown;
  }
  const schema = path.reduce<Schema>(
    ({ properties, items }, part) => (typeof part === 'number' ? items : properties?.[String(part)]) ?? {},
    optionSchema(module),
  );
  return Object.keys(schema.properties ?? {});
}

/** One entry of GET /v1/policies. */
export function describePolicy(module: AnyModule, model: ModelShape) {
  const reason = module.unsupported?.(model) ?? null;
  return {
    name: module.name,
    family: module.family,
    summary: module.summary,
    paper: module.paper,
    needs: module.needs,
    supported: reason === null,
    ...(reason !== null && { reason }),
    options: optionSchema(module),
    examples: module.examples,
  };
}

/** Names of the policies that a model can run, by family. */
export function supportedPolicies(model: ModelShape): Record<Family, string[]> {
  const of = (family: Family): string[] =>
    modulesOf(family)
      .filter((module) => (module.unsupported?.(model) ?? null) === null)
      .map(({ name }) => name);
  return { tokens: of('tokens'), kv: of('kv'), visual: of('visual'), layers: of('layers') };
}

/** What metrics and logs call it: the preset, or the names joined by `+`, or `none`. */
export function policyLabel(choice: PruningChoice | null): string {
  if (choice?.preset != null) return choice.preset;
  const chosen = FAMILIES.flatMap((family) => choice?.families[family]?.policy ?? []);
  return chosen.length === 0 ? NO_PRESET : chosen.join('+');
}
