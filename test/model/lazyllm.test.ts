/** LazyLLM against a torch reference: which tokens stay, which come back, how many rows each layer computes, logits. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createPolicies } from '../../src/policies/index.ts';
import { maxDifference } from './drive.ts';
import { modelLoader } from './fixture.ts';
import { PrunedRun, recorded } from './pruned-drive.ts';

interface Stage {
  readonly layer: number;
  readonly n_alive: number;
  readonly kept: number[];
  readonly revived_from_aux?: number[];
}

interface Case {
  readonly model: string;
  readonly mode: 'full' | 'prefill_only';
  readonly stages: { readonly layer: number; readonly rate: number }[];
  readonly input_ids: number[];
  readonly prefill: {
    readonly stages: Stage[];
    readonly rows_per_layer: number[];
    readonly last_logits: number[];
  };
  readonly decode: {
    readonly input_id: number;
    readonly stages: Stage[];
    readonly rows_per_layer: number[];
    readonly logits: number[];
  }[];
  readonly tokens_with_kv_per_layer: number[];
}

const root = join(import.meta.dirname, '../..');
const folder = join(root, 'test/fixtures/lazyllm');
const files = readdirSync(folder).filter((name) => name.endsWith('.json'));
const model = modelLoader();

describe.each(files)('%s', (file) => {
  const reference = JSON.parse(readFileSync(join(folder, file), 'utf8')) as Case;
  const tolerance = /stories260K|llama2xs/.test(reference.model) ? 1e-3 : 2e-3;

  it('keeps, revives and computes what the reference does', async () => {
    const loaded = await model(join(root, reference.model));
    const options = {
      stages: reference.stages.map(({ layer, rate }) => ({ layer, keep: 1 - rate })),
      prefill_only: reference.mode === 'prefill_only',
    };
    const choice = { preset: null, families: { tokens: { policy: 'lazyllm', options } } };
    const { policies, selections } = recorded(createPolicies(choice, loaded.info.shape));
    const run = new PrunedRun(loaded, policies);
    const expectStages = (stages: readonly Stage[]) => {
      expect(selections.splice(0)).toEqual(
        stages.map(({ layer, n_alive: numAlive, kept }) => ({ layer, numAlive, kept })),
      );
    };
    const [last] = await run.prefill(reference.input_ids, 'last', 32);
    expectStages(reference.prefill.stages);
    expect(run.lengths.map(([length]) => length)).toEqual(reference.prefill.rows_per_layer);
    expect(maxDifference(last!, reference.prefill.last_logits)).toBeLessThan(tolerance);

    let numRevived = 0;
    for (const step of reference.decode) {
      const before = run.lengths.map(([length]) => length!);
      const logits = await run.decode(step.input_id);
      expectStages(step.stages);
      expect(run.lengths.map(([length], layer) => length! - before[layer]!)).toEqual(step.rows_per_layer);
      numRevived += step.stages.reduce((sum, stage) => sum + (stage.revived_from_aux?.length ?? 0), 0);
      expect(run.pruning.report(run.numComputed).tokens!.revived).toBe(numRevived);
      expect(maxDifference(logits, step.logits)).toBeLessThan(tolerance);
    }
    expect(run.lengths.map(([length]) => length)).toEqual(reference.tokens_with_kv_per_layer);
    // Once computed, a token leaves the auxiliary cache: what is left are the tokens that some layer still lacks.
    const { auxBytes } = run.pruning.report(run.numComputed).tokens!;
    const missing = reference.tokens_with_kv_per_layer[0]! - reference.tokens_with_kv_per_layer.at(-1)!;
    const rowBytes = loaded.architecture.config.hiddenSize * 4;
    expect(auxBytes).toBe(reference.mode === 'full' ? missing * rowBytes : 0);
    run.cache.free();
  });
});
