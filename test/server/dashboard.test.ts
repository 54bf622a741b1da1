/** The Grafana dashboard asks only for metrics and labels that a real page has. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { createTestServer } from './support/app.ts';
import { Exposition } from './support/exposition.ts';
import { readQuery } from './support/promql.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

interface Panel {
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly targets?: readonly { readonly expr: string; readonly refId: string }[];
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly datasource?: { readonly uid: string };
}
interface Variable {
  readonly name: string;
  readonly type: string;
  readonly query: string | { readonly query: string };
}
const dashboard = JSON.parse(
  readFileSync(new URL('../../deploy/grafana/coppice.json', import.meta.url), 'utf8'),
) as { panels: Panel[]; templating: { list: Variable[] } };
const panels = dashboard.panels.filter(({ type }) => type !== 'row');
const variables = dashboard.templating.list;

/** Labels of every series on the page, by the name in samples. */
async function scrapedLabels(): Promise<Map<string, Set<string>>> {
  const server = createTestServer(new ScriptedEngine(saying([300])));
  const page = new Exposition(await (await server.app.request('/metrics')).text());
  const labels = new Map<string, Set<string>>();
  for (const { samples } of page.families.values())
    for (const sample of samples) {
      const known = labels.get(sample.name) ?? new Set();
      for (const label of Object.keys(sample.labels)) known.add(label);
      labels.set(sample.name, known);
    }
  return labels;
}

describe('reading queries', () => {
  test('names, matchers and groupings, whatever stands around them', () => {
    const query =
      'histogram_quantile(0.5, sum by (le, policy) (rate(a_bucket{model_name=~"$m,}", code!="x\\"y"}[5m]))) / on (model_name) group_left (b) c';
    expect(readQuery(query)).toEqual({
      metrics: [
        { name: 'a_bucket', labels: ['model_name', 'code'] },
        { name: 'c', labels: [] },
      ],
      grouped: ['le', 'policy', 'model_name', 'b'],
    });
  });

  test('what is no query throws', () => {
    for (const wrong of ['sum(a', 'a{b="c"', 'a{b}', 'rate(a[5m)', 'sum by (le (a)'])
      expect(() => readQuery(wrong), wrong).toThrow();
  });
});

describe('coppice.json', () => {
  test('its rows and variables', () => {
    const rows = dashboard.panels.filter(({ type }) => type === 'row').map(({ title }) => title);
    expect(rows).toEqual(['Overview', 'Pruning', 'Memory', 'Speculation']);
    expect(variables.map(({ name }) => name)).toEqual(['datasource', 'model_name', 'policy']);
  });

  test('every query names metrics and labels that exist', async () => {
    const page = await scrapedLabels();
    expect(panels.length).toBeGreaterThan(15);
    for (const { title, targets = [] } of panels) {
      expect(targets.length, title).toBeGreaterThan(0);
      for (const { expr } of targets) {
        const { metrics, grouped } = readQuery(expr);
        expect(metrics.length, expr).toBeGreaterThan(0);
        const known = metrics.map(({ name }) => page.get(name));
        metrics.forEach(({ name, labels }, i) => {
          expect(known[i], `${title}: ${name}`).toBeDefined();
          for (const label of labels) expect([...(known[i] ?? [])], `${title}: ${name}`).toContain(label);
        });
        for (const label of grouped)
          for (const labels of known) expect([...(labels ?? [])], `${title}: ${expr}`).toContain(label);
        const used = [...expr.matchAll(/\$(\w+)/g)].map(([, name]) => name);
        const valid = [...variables.map(({ name }) => name), '__rate_interval'];
        for (const name of used) expect(valid, expr).toContain(name);
      }
    }
  });

  test('variables ask for labels that exist', async () => {
    const page = await scrapedLabels();
    for (const { name, type, query } of variables) {
      if (type === 'datasource') continue;
      const text = typeof query === 'string' ? query : query.query;
      const [, metric = '', label = ''] = /^label_values\((\w+)(?:\{.*\})?, (\w+)\)$/.exec(text) ?? [];
      expect(label).toBe(name);
      expect([...(page.get(metric) ?? [])], text).toContain(label);
    }
  });

  test('every panel says what it shows, in which unit, from the chosen source', () => {
    for (const { title, description = '', fieldConfig, datasource } of panels) {
      expect(description.length, title).toBeGreaterThan(10);
      expect(fieldConfig?.defaults.unit, title).toBeTruthy();
      expect(datasource?.uid, title).toBe('${datasource}');
    }
  });

  test('panels do not overlap', () => {
    const taken = new Map<string, string>();
    for (const { title, gridPos } of dashboard.panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.get(`${x} ${y}`), title).toBeUndefined();
          taken.set(`${x} ${y}`, title);
        }
    }
  });

  test('shows every metric that the server has', async () => {
    const asked = new Set(
      panels.flatMap(({ targets = [] }) =>
        targets.flatMap(({ expr }) => readQuery(expr).metrics.map(({ name }) => name)),
      ),
    );
    const families = [...(await scrapedLabels()).keys()].filter((name) => !/_(bucket|sum|count)$/.test(name));
    expect(families.filter((name) => !asked.has(name))).toEqual([]);
  });
});
