/** Reads what a request asks for: names, options and what can stand together. */
import { AppError } from '../errors.ts';
import { describe, firstMistake } from '../validation.ts';
import { optionSchema } from './catalogue.ts';
import { NO_PRESET, createPolicies } from './choice.ts';
import type { ActivePolicies, ChosenPolicy, Presets, PruningChoice } from './choice.ts';
import { FAMILIES } from './contract.ts';
import type { Family, ModelShape } from './contract.ts';
import { modulesOf } from './modules.ts';
import type { AnyModule } from './modules.ts';
import { refuse } from './option-checks.ts';

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
