/** A histogram by model and policy whose text is made anew only for series that changed: most do not between scrapes. */
import { Histogram, Registry } from 'prom-client';

interface Labels {
  readonly model_name: string;
  readonly policy: string;
}

interface Options {
  readonly name: string;
  readonly help: string;
  readonly buckets: number[];
}

export class PolicyHistogram {
  readonly #options: Options;
  readonly #series = new Map<string, Series>();
  #head: string | null = null;

  constructor(options: Options) {
    this.#options = options;
  }

  observe(labels: Labels, value: number): void {
    this.labels(labels).observe(value);
  }

  /** The series, which exists from now on. */
  labels(labels: Labels): Series {
    const key = JSON.stringify([labels.model_name, labels.policy]);
    const found = this.#series.get(key);
    if (found !== undefined) return found;
    const series = new Series(this.#options, labels);
    this.#series.set(key, series);
    return series;
  }

  /** As prom-client would write all series in one family. */
  async render(): Promise<string> {
    this.#head ??= await renderOne(makeHistogram(this.#options));
    const texts = await Promise.all([...this.#series.values()].map((series) => series.render()));
    const { length } = this.#head;
    return this.#head + texts.map((text) => text.slice(length)).join('');
  }
}

class Series {
  readonly #histogram: OwnHistogram;
  readonly #observer: { observe(value: number): void };
  #numObserved = 0;
  #rendered: { readonly text: string; readonly numObserved: number } | null = null;

  constructor(options: Options, labels: Labels) {
    this.#histogram = makeHistogram(options);
    this.#histogram.metric.zero({ ...labels });
    this.#observer = this.#histogram.metric.labels({ ...labels });
  }

  observe(value: number): void {
    this.#observer.observe(value);
    this.#numObserved++;
  }

  async render(): Promise<string> {
    const numObserved = this.#numObserved;
    if (this.#rendered?.numObserved !== numObserved)
      this.#rendered = { text: await renderOne(this.#histogram), numObserved };
    return this.#rendered.text;
  }
}

interface OwnHistogram {
  readonly metric: Histogram<keyof Labels>;
  readonly registry: Registry;
}

function makeHistogram(options: Options): OwnHistogram {
  const registry = new Registry();
  const labelNames = ['model_name', 'policy'] as const;
  return { metric: new Histogram({ ...options, labelNames, registers: [registry] }), registry };
}

/** The family's head, then its lines. */
async function renderOne({ registry }: OwnHistogram): Promise<string> {
  return (await registry.metrics()).trimEnd();
}
