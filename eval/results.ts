/** What one setting comes to: its quality and cost, and both against the dense run of the same invocation. */
import { costRatios, summariseCost, type Cost, type CostRatios, type Sample } from './cost.ts';
import { QUESTION_SETS, type Question } from './items.ts';
import type { Quality } from './quality.ts';
import { DENSE } from './settings.ts';

/** Points (0-100) of exact answers lost on all items of a set, and perplexities, both against dense. */
export interface QualityRatios {
  readonly lost_points: Readonly<Record<string, number>>;
  readonly perplexity: number | null;
  readonly continuation_perplexity: number | null;
}

export interface SettingResult {
  readonly name: string;
  readonly pruning: unknown;
  /** Why it was given up, or null; what was measured before stands. */
  readonly failure: string | null;
  readonly quality: Quality | null;
  /** By length of prompt. */
  readonly cost: Readonly<Record<string, Cost>>;
  readonly ratios: {
    readonly quality: QualityRatios | null;
    readonly cost: Readonly<Record<string, CostRatios>>;
  };
}

/** What was measured under all settings, by name; a setting that failed has no entry from then on. */
export interface Measured {
  readonly qualities: ReadonlyMap<string, Quality>;
  readonly samples: ReadonlyMap<string, readonly Sample[]>;
  /** The questions of the samples, in the same order. */
  readonly timed: readonly Question[];
}

export function summarise(
  name: string,
  { qualities, samples, timed }: Measured,
): Pick<SettingResult, 'quality' | 'cost' | 'ratios'> {
  const quality = qualities.get(name) ?? null;
  const denseQuality = qualities.get(DENSE.name) ?? null;
  const own = samples.get(name);
  const dense = samples.get(DENSE.name);
  const cost: Record<string, Cost> = {};
  const ratios: Record<string, CostRatios> = {};
  for (const length of new Set(timed.flatMap(({ groups }) => groups))) {
    const ofLength = (list: readonly Sample[]): Sample[] =>
      list.filter((_, i) => timed[i]?.groups.includes(length));
    if (own === undefined) continue;
    cost[length] = summariseCost(ofLength(own));
    if (dense !== undefined) ratios[length] = costRatios(ofLength(own), ofLength(dense));
  }
  const compared = quality === null || denseQuality === null ? null : qualityRatios(quality, denseQuality);
  return { quality, cost, ratios: { quality: compared, cost: ratios } };
}

function qualityRatios(quality: Quality, dense: Quality): QualityRatios {
  const ratio = (a: number | null | undefined, b: number | null | undefined): number | null =>
    a == null || b == null ? null : a / b;
  const lost = QUESTION_SETS.flatMap((set) => {
    const [own, reference] = [quality[set]?.all, dense[set]?.all];
    return own === undefined || reference === undefined
      ? []
      : [[set, 100 * (reference.exact - own.exact)] as const];
  });
  return {
    lost_points: Object.fromEntries(lost),
    perplexity: ratio(quality.books?.perplexity, dense.books?.perplexity),
    continuation_perplexity: ratio(
      quality.books?.continuation_perplexity,
      dense.books?.continuation_perplexity,
    ),
  };
}
