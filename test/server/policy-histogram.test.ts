/** Texts kept by series are those that prom-client would write for the whole family, whenever it is asked. */
import fc from 'fast-check';
import { Histogram, Registry } from 'prom-client';
import { expect, test } from 'vitest';
import { PolicyHistogram } from '../../src/server/policy-histogram.ts';

const OPTIONS = { name: 'test_seconds', help: 'A "test" with \\ and\nline feed.', buckets: [0.1, 1, 10] };
const MODELS = ['a', 'quo"ted\\\n'];

const step = fc.oneof(
  fc.record({
    model_name: fc.constantFrom(...MODELS),
    policy: fc.constantFrom('none', 'snapkv', 'lazyllm+h2o'),
    value: fc.double({ min: 0, max: 20, noNaN: true }),
  }),
  fc.constant('render' as const),
);

test('any order of observations and scrapes', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const registry = new Registry();
      const labelNames = ['model_name', 'policy'] as const;
      const plain = new Histogram({ ...OPTIONS, labelNames, registers: [registry] });
      const own = new PolicyHistogram(OPTIONS);
      const compare = async () => {
        expect(`${await own.render()}\n`).toBe(await registry.metrics());
      };
      for (const model_name of MODELS) {
        own.labels({ model_name, policy: 'none' });
        plain.zero({ model_name, policy: 'none' });
      }
      for (const step of steps) {
        if (step === 'render') {
          await compare();
          continue;
        }
        const { value, ...labels } = step;
        own.observe(labels, value);
        plain.observe(labels, value);
      }
      await compare();
    }),
  );
});

test('what is observed while a scrape is being written is in the next one', async () => {
  const own = new PolicyHistogram(OPTIONS);
  const series = own.labels({ model_name: 'a', policy: 'none' });
  for (let i = 0; i < 5; i++) {
    const page = own.render();
    series.observe(0.5);
    await Promise.resolve();
    series.observe(0.5);
    await page;
  }
  expect(await own.render()).toContain('test_seconds_count{model_name="a",policy="none"} 10');
});
