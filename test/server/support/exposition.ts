/** A strict reader of the Prometheus text format: anything out of order throws. */
const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|\+Inf|NaN)$/;
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/;

export interface Family {
  type: string;
  readonly help: string;
  readonly samples: { name: string; labels: Record<string, string>; value: number }[];
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (let rest = text; rest !== '';) {
    const match = LABEL.exec(rest);
    if (match === null) throw new Error(`expected a label, got ${rest}`);
    const [all, name = '', value = ''] = match;
    if (Object.hasOwn(labels, name)) throw new Error(`label ${name} stands twice in ${text}`);
    labels[name] = value;
    rest = rest.slice(all.length);
  }
  return labels;
}

export class Exposition {
  readonly families = new Map<string, Family>();

  constructor(text: string) {
    if (!text.endsWith('\n')) throw new Error('expected a line feed at the end');
    let family: Family | null = null;
    let name = '';
    const seen = new Set<string>();
    for (const line of text.split('\n')) {
      if (line === '') continue;
      const [, kind, subject = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line) ?? [];
      if (kind === 'HELP') {
        if (this.families.has(subject)) throw new Error(`family ${subject} stands twice`);
        name = subject;
        family = { help: rest, type: '', samples: [] };
        this.families.set(name, family);
      } else if (kind === 'TYPE') {
        if (family === null || subject !== name || family.type !== '') throw new Error(`stray line ${line}`);
        family.type = rest;
      } else {
        const [, metric = '', labels = '', value = ''] = LINE.exec(line) ?? [];
        if (metric === '' || family === null) throw new Error(`not a sample: ${line}`);
        const suffix = metric.slice(name.length);
        const suffixes = family.type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
        if (!metric.startsWith(name) || !suffixes.includes(suffix))
          throw new Error(`${metric} below ${name}`);
        const sample = { name: metric, labels: parseLabels(labels), value: Number(value.replace('+', '')) };
        const key = JSON.stringify([metric, Object.entries(sample.labels).sort()]);
        if (seen.has(key)) throw new Error(`series ${key} stands twice`);
        seen.add(key);
        family.samples.push(sample);
      }
    }
    for (const [family, { type, samples }] of this.families)
      if (type === 'histogram') checkHistogram(family, samples);
  }

  /** The value of the one series with exactly these labels, `model_name` aside; null if there is none. */
  value(name: string, labels: Record<string, string> = {}): number | null {
    const family = this.families.get(name) ?? this.families.get(name.replace(/_(sum|count|bucket)$/, ''));
    if (family === undefined) throw new Error(`no family ${name}`);
    const wanted = JSON.stringify(Object.entries(labels).sort());
    const found = family.samples.find((sample) => {
      const others = Object.entries(sample.labels).filter(([label]) => label !== 'model_name');
      return sample.name === name && JSON.stringify(others.sort()) === wanted;
    });
    return found?.value ?? null;
  }

  /** All values of a family, histograms by their counts. */
  total(name: string): number {
    const samples = this.families.get(name)?.samples ?? [];
    const counted = samples.filter((sample) => sample.name === name || sample.name === `${name}_count`);
    return counted.reduce((sum, { value }) => sum + value, 0);
  }
}

/** Buckets rise to the count, in order of their limits. */
function checkHistogram(family: string, samples: Family['samples']): void {
  const series = new Map<string, Family['samples']>();
  for (const sample of samples) {
    const key = JSON.stringify(Object.entries(sample.labels).filter(([label]) => label !== 'le'));
    series.set(key, [...(series.get(key) ?? []), sample]);
  }
  for (const [key, all] of series) {
    const buckets = all.filter(({ name }) => name === `${family}_bucket`);
    const count = all.find(({ name }) => name === `${family}_count`)?.value;
    const limits = buckets.map(({ labels }) => Number(labels['le']?.replace('+Inf', 'Infinity')));
    const isRising = (values: readonly number[]) =>
      values.every((v, i) => i === 0 || v >= (values[i - 1] ?? v));
    const isSound =
      isRising(limits) && isRising(buckets.map(({ value }) => value)) && buckets.at(-1)?.value === count;
    if (!isSound || limits.at(-1) !== Infinity) throw new Error(`unsound histogram ${family} ${key}`);
  }
}
