/** The README's table of policies is what the modules say. `UPDATE_README=1` writes it anew. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MODULES, describePolicy, type PolicyModule } from '../../src/policies/index.ts';
import { DENSE_SHAPE } from './inputs.ts';

const README = join(import.meta.dirname, '../../README.md');
const BLOCK = /(?<=<!-- policies -->\n).*(?=<!-- \/policies -->)/s;

/** Such as `` `sink` (4) ``; options without a default are as their description says. */
function optionList(module: (typeof MODULES)[number]): string {
  const { properties = {} } = describePolicy(module, DENSE_SHAPE).options;
  return Object.entries(properties)
    .map(([name, schema]) => {
      const byDefault = typeof schema === 'object' ? schema.default : undefined;
      return `\`${name}\`${byDefault === undefined ? '' : ` (${JSON.stringify(byDefault)})`}`;
    })
    .join(', ');
}

function paperLink({ paper }: PolicyModule): string {
  return paper === null ? '' : `[${paper}](https://arxiv.org/abs/${paper})`;
}

function table(): string {
  const rows = MODULES.map((module) => [
    `\`${module.family}\``,
    `\`${module.name}\``,
    module.summary,
    optionList(module),
    paperLink(module),
  ]);
  const lines = [
    ['family', 'policy', 'what is left out', 'options (defaults)', 'paper'],
    Array<string>(5).fill('---'),
    ...rows,
  ];
  return lines.map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}

it('README.md has the table of policies (UPDATE_README=1 npx vitest run test/policies/readme.test.ts)', () => {
  const readme = readFileSync(README, 'utf8');
  expect(readme).toMatch(BLOCK);
  const updated = readme.replace(BLOCK, () => table());
  if (process.env['UPDATE_README'] === '1') writeFileSync(README, updated);
  else expect(readme).toBe(updated);
});
