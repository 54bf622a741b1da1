/** All policies, a line each. */
import type { Family, PolicyModule } from './contract.ts';
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
import { ftp } from './tokens/ftp.ts';
import { lazyllm } from './tokens/lazyllm.ts';
import { randomTokens } from './tokens/random.ts';
import { spatten } from './tokens/spatten.ts';

export type AnyModule = { [F in Family]: PolicyModule<F> }[Family];

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

export function modulesOf(family: Family): readonly AnyModule[] {
  return MODULES.filter((module) => module.family === family);
}
