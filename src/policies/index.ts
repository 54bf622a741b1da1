/** What the rest of the program may know of policies. */
export * from './contract.ts';
export { describePolicy, optionSchema, supportedPolicies } from './catalogue.ts';
export { NO_PRESET, createPolicies, policyLabel } from './choice.ts';
export type { ActivePolicies, ChosenPolicy, Presets, PruningChoice } from './choice.ts';
export { MODULES } from './modules.ts';
export { parsePruning } from './parse.ts';
export { keptEntries, topIndices } from './selection.ts';
