/** What the module of every policy must hold, and every plan of the layers family. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  FAMILIES,
  MODULES,
  describePolicy,
  supportedPolicies,
  type Family,
} from '../../src/policies/index.ts';
import { cases } from './cases.ts';
import { DENSE_SHAPE, PRUNED_SHAPE } from './inputs.ts';

const FOLDER = join(import.meta.dirname, '../../src/policies');

const namesOf = (family: Family): string[] =>
  MODULES.filter((module) => module.family === family).map(({ name }) => name);

it('every file of a family is registered once, under its name', () => {
  const families = FAMILIES.filter((family) => readdirSync(FOLDER).includes(family));
  const files = families.flatMap((family) =>
    readdirSync(join(FOLDER, family)).map((file) => `${family}/${file}`),
  );
  expect(MODULES.map(({ family, name }) => `${family}/${name}.ts`).sort()).toEqual(files.sort());
});

describe.each(MODULES)('$family $name', (module) => {
  const { options, ...description } = describePolicy(module, DENSE_SHAPE);

  it('describes itself', () => {
    const { name, family, needs, summary, paper, examples } = module;
    expect(description).toEqual({ name, family, summary, paper, needs, supported: true, examples });
    expect(summary).toMatch(/^[^\n]{20,110}$/);
    if (paper !== null) expect(paper).toMatch(/^\d{4}\.\d{5}$/);
    expect(examples.length).toBeGreaterThanOrEqual(1);
    expect(examples.length).toBeLessThanOrEqual(3);
  });

  it('describes each option in JSON Schema', () => {
    expect(JSON.parse(JSON.stringify(options))).toEqual(options);
    expect(options).toMatchObject({ type: 'object', additionalProperties: false });
    for (const [option, schema] of Object.entries(options.properties ?? {})) {
      expect(option).toMatch(/^[a-z]+(_[a-z]+)*$/);
      expect(schema).toHaveProperty('description');
    }
  });
});

it('policies are supported where the model has what they need', () => {
  const byFamily = { tokens: namesOf('tokens'), kv: namesOf('kv'), visual: [], layers: namesOf('layers') };
  expect(supportedPolicies(DENSE_SHAPE)).toEqual(byFamily);
  const kv = namesOf('kv').filter((name) => name !== 'duo-attention');
  expect(supportedPolicies(PRUNED_SHAPE)).toEqual({ ...byFamily, kv });
  const duo = MODULES.find(({ name }) => name === 'duo-attention');
  expect(duo && describePolicy(duo, PRUNED_SHAPE)).toMatchObject({
    supported: false,
    reason: expect.stringContaining('pattern') as string,
  });
});

it.each(cases('layers'))('$title: plans every layer, and leaves something out', ({ policy, model }) => {
  const { attention, mlp, headScale } = policy;
  expect(attention).toHaveLength(model.layers.length);
  expect(mlp).toHaveLength(model.layers.length);
  expect(headScale).toHaveLength(model.layers.length);
  headScale.forEach((row, layer) => {
    if (row !== null) expect(row).toHaveLength(model.layers[layer]!.queryHeads);
  });
  const factors = headScale.flatMap((row) => row ?? []);
  expect([...attention, ...mlp].includes(false) || factors.some((factor) => factor !== 1)).toBe(true);
});
